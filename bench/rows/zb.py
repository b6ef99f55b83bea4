"""The scenarios of zot's benchmark zb: images of one layer, pushed and pulled by ten clients.

A push is the layer, then the config, then the manifest, each image to a fresh repository.  In one PUT: POST and
PUT for each blob.  By PATCH (zb's name is "Push Chunk Streamed"): POST, PATCH and PUT; one PATCH has the whole
layer and a Content-Length (HTTP chunks are in the row `blob-push-chunked`), and before that of the config comes an
empty one, whose Location is not used.  A pull is HEAD and GET of the manifest, HEAD and GET of config and layer.

Differences to zb (zot 2.1.20): each layer has fresh bytes (zb pushes one file over and over, so that after the
first push it measures deduplication); mixes are dealt out exactly, not by chance; manifests are of Docker's type;
set-up and clean-up are not timed.  The two scenarios of a cache in front of another registry are left out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from bench import content, load, percentiles
from bench.client import Client, target_of
from bench.rows.base import Bench, Metric, Row, latency

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.content import Blob, Image
    from bench.servers import Server

__all__ = ["CLIENTS", "ROWS", "deal", "is_push"]

CLIENTS: Final = 10
_MIB: Final = 1 << 20
_MIXED: Final = (1, 10, 10, 10, 100, 10, 10, 1, 10, 10)
"""Sizes in MiB: 20 % 1 MiB, 70 % 10 MiB, 10 % 100 MiB."""
_THIRDS: Final = (1, 10, 100)
_PULL_NAME: Final = "zb/pull"
_LISTED: Final = 100

Timed = Callable[[], None]
Operation = Callable[[Client, str, int, int], Timed]
"""A client, a run, the index of the operation in it and a size in MiB to the part that is timed."""
Push = Callable[[Client, str, "Image"], None]
Sizes = Callable[[Bench], Sequence[int]]


def deal(sizes: Sequence[int], clients: int, client: int) -> list[tuple[int, int]]:
    """Return one client's operations as index in the whole run and size."""
    return list(enumerate(sizes))[client::clients]


def is_push(index: int) -> bool:
    """Return whether this operation of a mixed run is a push: every fourth of the whole run, not of a client."""
    return index % 4 == 3


def _put(client: Client, name: str, blob: Blob) -> None:
    place = client.begin(name)
    joined = f"{place}{'&' if '?' in place else '?'}digest={blob.digest}"
    client.expect(201, "PUT", joined, blob.data, "application/octet-stream")


def _patch(client: Client, place: str, data: bytes | memoryview) -> str:
    return target_of(client.expect(202, "PATCH", place, data, "application/octet-stream"))


def _push_whole(client: Client, name: str, image: Image) -> None:
    """POST and PUT for each blob, then the manifest."""
    for blob in image.blobs:
        _put(client, name, blob)
    client.push_manifest(name, "1", image.manifest)


def _push_by_patch(client: Client, name: str, image: Image) -> None:
    """POST, PATCH and PUT for each blob, with zb's empty PATCH before that of the config; then the manifest."""
    *layers, config = image.blobs
    for layer in layers:
        client.push(name, layer)
    place = client.begin(name)
    _patch(client, place, b"")
    client.finish(_patch(client, place, config.data), config.digest)
    client.push_manifest(name, "1", image.manifest)


def _pull(client: Client, name: str, tag: str, blobs: Sequence[tuple[str, int]]) -> None:
    client.expect(200, "HEAD", f"/v2/{name}/manifests/{tag}")
    client.expect(200, "GET", f"/v2/{name}/manifests/{tag}")
    for digest, size in blobs:
        client.expect(200, "HEAD", f"/v2/{name}/blobs/{digest}")
        client.download(f"/v2/{name}/blobs/{digest}", size)


def _run(bench: Bench, server: Server, sizes: Sequence[int], operation: Operation) -> dict[str, float]:
    """Do one operation for each size, dealt out to the clients; return rate and percentiles of latency."""
    clients = min(CLIENTS, len(sizes))
    run = os.urandom(4).hex()

    def work(number: int) -> Callable[[], Callable[[], list[float]]]:
        def prepare() -> Callable[[], list[float]]:
            client = Client(server.port)
            todo = [operation(client, run, index, size) for index, size in deal(sizes, clients, number)]

            def go() -> list[float]:
                with client:
                    return [_seconds(one) for one in todo]

            return go

        return prepare

    done = load.together(bench.load_cpus, [work(number) for number in range(clients)], server.cpu_s)
    os.sync()
    return {
        "rate": len(sizes) / done.wall_s,
        **percentiles.in_ms(value for times in done.results for value in times),
        "cpu_ms": done.server_s / len(sizes) * 1000,
    }


def _seconds(work: Timed) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _pushing(push: Push) -> Operation:
    def operation(client: Client, run: str, index: int, size: int) -> Timed:
        image = content.image(1, size * _MIB)
        return lambda: push(client, f"zb/{run}-{index}", image)

    return operation


def _pulling(client: Client, _run: str, _index: int, size: int) -> Timed:
    blobs = _blobs_of(client, size)
    return lambda: _pull(client, _PULL_NAME, f"mb{size}", blobs)


def _mixing(client: Client, run: str, index: int, size: int) -> Timed:
    operation = _pushing(_push_whole) if is_push(index) else _pulling
    return operation(client, run, index, size)


def _listing(client: Client, _run: str, _index: int, _size: int) -> Timed:
    def get() -> None:
        client.expect(200, "GET", "/v2/_catalog")

    return get


def _blobs_of(client: Client, size: int) -> list[tuple[str, int]]:
    manifest = json.loads(client.expect(200, "GET", f"/v2/{_PULL_NAME}/manifests/mb{size}").body)
    return [(entry["digest"], entry["size"]) for entry in (manifest["config"], *manifest["layers"])]


def _with_images(*sizes: int) -> Callable[[Bench, Server], None]:
    """One image of each size to pull."""

    def prepare(_bench: Bench, server: Server) -> None:
        with Client(server.port) as client:
            for size in sizes:
                image = content.image(1, size * _MIB)
                for blob in image.blobs:
                    client.push(_PULL_NAME, blob)
                client.push_manifest(_PULL_NAME, f"mb{size}", image.manifest)

    return prepare


def _with_repositories(_bench: Bench, server: Server) -> None:
    """Repositories to list, with an image in each."""
    image = content.image(1, 1000)
    with Client(server.port) as client:
        for number in range(_LISTED):
            _push_whole(client, f"zb/list-{number:03d}", image)


def _row(
    name: str,
    title: str,
    sizes: Sizes,
    operation: Operation,
    prepare: Callable[[Bench, Server], None] | None = None,
) -> Row:
    def measure(bench: Bench, server: Server) -> Mapping[str, float]:
        return _run(bench, server, sizes(bench), operation)

    metrics = (
        Metric("rate", "operations/s", "higher", goals={"zot": 1.0, "distribution": 1.0}),
        *latency(goals={"zot": 1.0}),
        Metric("cpu_ms", "server CPU ms/operation", "lower"),
    )
    return Row(name, lambda bench: f"zb: {title}, {len(sizes(bench))} times", metrics, measure, prepare)


def _of(size: int, quick: int, usual: int) -> Sizes:
    return lambda bench: [size] * bench.pick(quick, usual)


def _mix(sizes: Sequence[int], quick: int, usual: int) -> Sizes:
    return lambda bench: list(sizes) * bench.pick(quick, usual)


def _rows() -> Iterator[Row]:
    whole, by_patch = _pushing(_push_whole), _pushing(_push_by_patch)
    # Multiples of four, so that a quarter is a whole number.
    for size, quick, usual in ((1, 52, 200), (10, 16, 60), (100, 4, 12)):
        sizes, pulled = _of(size, quick, usual), _with_images(size)
        yield _row(f"zb-push-{size}", f"push {size} MiB in one PUT", sizes, whole)
        yield _row(f"zb-push-patch-{size}", f"push {size} MiB by one PATCH", sizes, by_patch)
        yield _row(f"zb-pull-{size}", f"pull {size} MiB", sizes, _pulling, pulled)
        yield _row(f"zb-mixed-{size}", f"75 % pull and 25 % push of {size} MiB", sizes, _mixing, pulled)
    mixed = _mix(_MIXED, 1, 3)
    yield _row("zb-push-mixed", "push 1 (20 %), 10 (70 %) or 100 MiB (10 %) in one PUT", mixed, whole)
    yield _row(
        "zb-push-patch-mixed", "push 1, 10 or 100 MiB (a third each) by one PATCH", _mix(_THIRDS, 2, 8), by_patch
    )
    yield _row(
        "zb-pull-mixed",
        "pull 1 (20 %), 10 (70 %) or 100 MiB (10 %)",
        mixed,
        _pulling,
        _with_images(*sorted(set(_MIXED))),
    )
    yield _row(
        "zb-catalog",
        f"list the catalogue of {_LISTED} repositories",
        _of(0, 500, 2000),
        _listing,
        _with_repositories,
    )


ROWS: Final = tuple(_rows())
