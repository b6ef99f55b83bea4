"""A list of tags has exactly the tags that answer 200, after a crash at any step, in every kind of store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from tests.copy.worlds import opened, serving
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import ManifestUnknown
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.manifests import StoredManifests
from moorage.registry.tag_list import StoredTags
from moorage.registry.tags import NOWHERE
from moorage.testing.builders import image
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.http.client import Client

    from moorage.storage.driver import Driver

APP = RepoName("team/app")
ONE, OTHER = image(seed=1), image(seed=2)
ABSENT = Digest.of(b"no manifest")


@pytest.fixture(params=["memory", "filesystem", "objects", pytest.param("s3", marks=pytest.mark.slow)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """An image with two tags, and another with one."""
    async with opened(request.param, tmp_path / "store") as driver:
        client = serving(driver)
        await client.push(ONE, "kept", "v1", name=APP)
        await client.push(OTHER, "other", name=APP)
        yield driver


async def names(driver: Driver) -> list[str]:
    """Every name that the store lists below the tags."""
    found: list[str] = []
    async for page in driver.children(layout.tags(APP)):
        found += page
    return found


async def lists(driver: Driver) -> list[str]:
    """Both lists, seen by a process that has just been started, are the tags that answer 200; these."""
    client = serving(driver)
    paged: list[str] = []
    while True:
        last = f"&last={paged[-1]}" if paged else ""
        page = (await client.get(f"/v2/{APP}/tags/list?n=2{last}")).json()["tags"]
        if not page:
            break
        paged += page
    whole: list[str] = (await serving(driver).get(f"/v2/{APP}/tags/list")).json()["tags"]
    answers = [name for name in await names(driver) if await answers_200(serving(driver), name)]
    assert whole == paged == answers
    return whole


async def answers_200(client: Client, name: str) -> bool:
    status = (await client.manifest(name, APP, "HEAD")).status_code
    assert status in {200, 400, 404}
    return status == 200


class Crashed(BaseException):
    """The process is gone; nothing catches this."""


class Crashing(InstrumentedDriver):
    """Stops for good before or after its `moment`-th change."""

    def __init__(self, driver: Driver, moment: int) -> None:
        super().__init__(driver)
        self._left = moment
        self.name = driver.name
        self.request_cost = driver.request_cost

    async def before(self, call: str) -> None:
        if call.startswith(("write", "delete", "clear")):
            self._step()

    async def after_change(self, call: str) -> None:
        del call
        self._step()

    def _step(self) -> None:
        if self._left == 0:
            raise Crashed
        self._left -= 1


async def _push(manifests: StoredManifests) -> None:
    await manifests.put(APP, Tag("v1"), OTHER.media_type, OTHER.data, tags=(Tag("new"),))


async def _push_again(manifests: StoredManifests) -> None:
    with suppress(ManifestUnknown):  # the one before came so far
        await manifests.delete(APP, ONE.digest)
    await manifests.put(APP, Tag("again"), ONE.media_type, ONE.data)


async def _delete_tag(manifests: StoredManifests) -> None:
    with suppress(ManifestUnknown):
        await manifests.delete(APP, Tag("v1"))


REQUESTS = {"push": (_push, 5), "delete and push again": (_push_again, 8), "delete a tag": (_delete_tag, 2)}


@pytest.mark.slow
@pytest.mark.parametrize("request_", REQUESTS)
async def test_lists_are_what_answers_200_after_a_crash_at_every_step(store: Driver, request_: str) -> None:
    """Issue 936 of Distribution: mirrors and clean-up jobs fail at tags that are listed and unknown.

    Each death continues where the one before it left the store, as restarts do.
    """
    work, least = REQUESTS[request_]
    moment = 0
    while await _dies(store, work, moment):
        await lists(store)
        moment += 1
    assert moment >= least
    assert {"push": ["kept", "new", "other", "v1"], "delete and push again": ["again", "other"]}.get(
        request_, ["kept", "other"]
    ) == await lists(store)


async def _dies(store: Driver, work: Callable[[StoredManifests], Awaitable[None]], moment: int) -> bool:
    manifests = StoredManifests(Crashing(store, moment), delete_enabled=True)
    try:
        await work(manifests)
    except Crashed:
        return True
    return False


async def test_every_kind_of_dead_tag(store: Driver) -> None:
    """Torn links, stray objects, half pushes, manifests without a link or bytes, another registry's leavings."""
    for tag, data in {
        "torn": b"",
        "short": b"sha256:12",
        "junk": b"\xff" * 71,
        "large": b"x" * 5000,
        "nowhere": str(NOWHERE).encode(),
        "absent": str(ABSENT).encode(),
        "-invalid": str(ONE.digest).encode(),
        "newline": str(ONE.digest).encode() + b"\n",
    }.items():
        await store.write(layout.tag_link(APP, Tag(tag)), data)
    await store.write(layout.tag_history_link(APP, Tag("half"), ONE.digest), str(ONE.digest).encode())
    await store.write(layout.below(layout.tags(APP), "stray"), b"a file")
    await store.write(layout.below(layout.tag(APP, Tag("odd")), "current/link/below"), b"a link that holds more")
    assert await lists(store) == ["kept", "newline", "other", "v1"]


@pytest.mark.parametrize("data", [None, b"", ONE.data[:-1], ONE.data[:-1] + b" ", b"x" * (5 << 20)])
async def test_a_manifest_without_its_bytes(store: Driver, data: bytes | None) -> None:
    """Lost or torn, it answers 404 by tag and by digest, so its tags are not listed."""
    key = layout.blob_data(ONE.digest)
    if data is None:
        await store.delete([key])
    else:
        await store.write(key, data)
    assert await lists(store) == ["other"]
    await serving(store).push(ONE, "v1", name=APP)
    assert await lists(store) == ["kept", "other", "v1"]


async def test_bytes_that_vanish_beside_a_serving_registry(store: Driver) -> None:
    """A list and a request agree within a process: both go by what it remembers, and both find out."""
    contents = ManifestContents(BlobStore(store), cache_bytes=0)
    tags = StoredTags(store, contents=contents)
    assert (await tags.list(APP)).names == ("kept", "other", "v1")
    await store.write(layout.blob_data(ONE.digest), ONE.data[:-1])
    assert (await tags.list(APP)).names == ("other",)
    await store.delete([layout.blob_data(ONE.digest)])
    assert (await tags.list(APP, limit=9)).names == ("other",)
    await store.write(layout.blob_data(ONE.digest), ONE.data)
    assert (await tags.list(APP)).names == ("kept", "other", "v1")
