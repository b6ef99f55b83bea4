"""Listings: a page of 100 out of 100,000 tags and of 20,000 repositories, warm, from one client.

The tree is made directly on disk, in the layout both registries read; pages begin at random places.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from bench import content, percentiles
from bench.client import MANIFEST_TYPE, Client, Refused
from bench.rows.base import Bench, Row, latency
from bench.servers import MOORAGE, ZOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.servers import Server

__all__ = ["ROWS"]

_TAGS: Final = 100_000
_REPOSITORIES: Final = 20_000
_PAGE: Final = 100
_NAME: Final = "library/many"


def _fill_tags(bench: Bench, server: Server) -> None:
    image = content.image(1, 100)
    with Client(server.port) as client:
        client.push_image(_NAME, "first", image)
        digest = client.expect(200, "GET", f"/v2/{_NAME}/manifests/first").headers["docker-content-digest"]
    tags = _home(server) / _NAME / "_manifests/tags"
    for number in range(_count(bench, _TAGS)):
        current = tags / _tag(number) / "current"
        current.mkdir(parents=True)
        (current / "link").write_text(digest)


def _fill_repositories(bench: Bench, server: Server) -> None:
    for number in range(_count(bench, _REPOSITORIES)):
        home = _home(server) / _repository(number)
        for name in ("_layers/sha256", "_manifests/revisions/sha256", "_manifests/tags", "_uploads"):
            (home / name).mkdir(parents=True)


def _count(bench: Bench, total: int) -> int:
    return bench.pick(total // 10, total)


def _home(server: Server) -> Path:
    return server.root / "docker/registry/v2/repositories"


def _tag(number: int) -> str:
    return f"v{number // 1000}.{number % 1000:03}"


def _repository(number: int) -> str:
    return f"team-{number // 100:03}/project-{number % 100:02}"


def _pages(
    total: int, endpoint: str, last: Callable[[int], str]
) -> Callable[[Bench, Server], Mapping[str, float]]:
    def measure(bench: Bench, server: Server) -> dict[str, float]:
        chooser = random.Random(1)  # the same pages for both sides
        times = []
        count = _count(bench, total)
        requests = bench.pick(20, 200) if server.side == MOORAGE else bench.pick(5, 20)
        with Client(server.port) as client:
            client.expect(200, "GET", f"{endpoint}?n={_PAGE}")
            for _ in range(requests):
                target = f"{endpoint}?n={_PAGE}&last={last(chooser.randrange(count - 2 * _PAGE))}"
                began = time.perf_counter()
                answer = client.expect(200, "GET", target, media_type=MANIFEST_TYPE)
                times.append(time.perf_counter() - began)
                # The peer's 2.8 ignores `n` and sends all tags, without a Link.
                if answer.body.count(b",") < _PAGE - 1 or (
                    "link" not in answer.headers and server.side == MOORAGE
                ):
                    raise Refused(f"{target}: not a full page: {answer.body[:200]!r}")
        return percentiles.in_ms(times)

    return measure


_METRICS: Final = latency(50)
_WITHOUT: Final = {ZOT: "its storage has another layout, and the row writes the tree to disk itself"}

ROWS: Final = (
    Row(
        "tags-list",
        lambda bench: f"tags/list?n=100 of {_count(bench, _TAGS):,} tags",
        _METRICS,
        _pages(_TAGS, f"/v2/{_NAME}/tags/list", _tag),
        _fill_tags,
        rounds=2,
        without=_WITHOUT,
    ),
    Row(
        "catalog",
        lambda bench: f"_catalog?n=100 of {_count(bench, _REPOSITORIES):,} repositories",
        _METRICS,
        _pages(_REPOSITORIES, "/v2/_catalog", _repository),
        _fill_repositories,
        rounds=2,
        without=_WITHOUT,
    ),
)
