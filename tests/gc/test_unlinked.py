"""A collection of given digests only: bytes go at once that no repository links, and no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import OTHER, FakeClock, Garbage, collection_of, put, state_of

from moorage.gc.options import CollectionOptions
from moorage.gc.run import collect
from moorage.gc.unlinked import UnlinkedBytes
from moorage.registry import layout
from moorage.registry.trash import Trash
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime
    from pathlib import Path

    from moorage.gc.marked import Marked
    from moorage.gc.report import Report
    from moorage.gc.work import Work
    from moorage.storage.driver import Driver

LEAK, NEIGHBOUR = blob(seed=31), blob(seed=32)


@pytest.fixture(params=["memory", "filesystem", "objects"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    found: Driver = MemoryDriver()
    if request.param == "filesystem":
        found = FilesystemDriver(tmp_path / "store")
    elif request.param == "objects":
        found = ObjectDriver.with_chunk_log(MemoryObjects(Bucket()))
    for built in (LEAK, NEIGHBOUR):
        await found.write(layout.blob_data(built.digest), built.data)
    yield found
    await found.close()


async def remove(driver: Driver, *digests: Digest) -> tuple[Report, dict[Digest, str]]:
    sources: list[UnlinkedBytes] = []

    def marker(now: datetime) -> UnlinkedBytes:
        sources.append(UnlinkedBytes(driver, digests, now))
        return sources[-1]

    options = CollectionOptions(wait_s=0)
    collection = replace(collection_of(driver, options, clock=FakeClock(), cleans=False), marker=marker)
    return await collect(collection), sources[-1].linked


async def has_bytes(driver: Driver, digest: Digest) -> bool:
    return await driver.find(layout.blob_data(digest)) is not None


async def test_unlinked_bytes_go_at_once_and_nothing_else(driver: Driver) -> None:
    """A minute old, without a wait; other garbage is left to the runs that may judge it."""
    garbage = Garbage()
    await garbage.write(driver)
    report, linked = await remove(driver, LEAK.digest, garbage.base.digest)
    assert (report.outcome, report.freed.objects, report.freed.bytes) == ("finished", 1, len(LEAK.data))
    assert linked == {garbage.base.digest: "team/app"}
    assert not await has_bytes(driver, LEAK.digest)
    for kept in (NEIGHBOUR, garbage.base, garbage.orphan, garbage.dead):
        assert await has_bytes(driver, kept.digest)
    assert await state_of(driver) == {"ended", "reserve"}


async def _linked_as_sha512(driver: Driver) -> None:
    key = layout.layer_link(OTHER, Digest.of(LEAK.data, "sha512"))
    await driver.write(key, str(LEAK.digest).encode())


async def _linked_in_a_repository_no_client_can_name(driver: Driver) -> None:
    await driver.write(layout.layer_link(RepoName("Team/App"), LEAK.digest), str(LEAK.digest).encode())


async def _linked_emptily(driver: Driver) -> None:
    await driver.write(layout.revision_link(OTHER, LEAK.digest), b"")


async def _trashed(driver: Driver) -> None:
    await Trash(driver, keep_s=60).add_layer(OTHER, LEAK.digest, LEAK.digest, by="", reason="")


async def _trashed_unreadably(driver: Driver) -> None:
    await _trashed(driver)
    async for page in driver.scan(layout.trash(OTHER)):
        for stat in page:
            await driver.write(stat.key, b"{")


async def _linked_by_a_torn_alias(driver: Driver) -> None:
    await driver.write(layout.layer_link(OTHER, Digest.of(b"x", "sha512")), b"sha2")


@pytest.mark.parametrize(
    "keep",
    [
        _linked_as_sha512,
        _linked_in_a_repository_no_client_can_name,
        _linked_emptily,
        _trashed,
        _trashed_unreadably,
        _linked_by_a_torn_alias,
    ],
)
async def test_what_a_repository_may_need_is_kept(
    driver: Driver, keep: Callable[[Driver], Awaitable[None]]
) -> None:
    """Whatever names it, and when that cannot be known; the report or the list of links has the reason."""
    await keep(driver)
    report, linked = await remove(driver, LEAK.digest)
    assert await has_bytes(driver, LEAK.digest)
    assert report.freed.objects == 0
    assert linked or report.problems


async def test_a_directory_that_cannot_be_listed_keeps_everything(tmp_path: Path) -> None:
    """A disk that is not mounted may link anything."""
    driver = FilesystemDriver(tmp_path)
    await driver.write(layout.blob_data(LEAK.digest), LEAK.data)
    await put(driver, NEIGHBOUR)
    (tmp_path / layout.REPOSITORIES / "elsewhere").symlink_to(tmp_path / "unmounted")
    report, _ = await remove(driver, LEAK.digest)
    assert await has_bytes(driver, LEAK.digest)
    assert "cannot be listed" in report.problems[0].reason
    await driver.close()


async def test_a_link_that_is_written_during_the_run_keeps_the_bytes(driver: Driver) -> None:
    """The second look at the store is at that of the moment."""

    class PushedMeanwhile(UnlinkedBytes):
        async def mark(self, wanted: Work | None = None) -> Marked:
            marked = await super().mark(wanted)
            await driver.write(layout.layer_link(OTHER, LEAK.digest), str(LEAK.digest).encode())
            return marked

    options = CollectionOptions(wait_s=0)
    collection = replace(
        collection_of(driver, options, cleans=False),
        marker=lambda now: PushedMeanwhile(driver, [LEAK.digest], now),
    )
    report = await collect(collection)
    assert (report.kept, report.freed.objects) == (1, 0)
    assert await has_bytes(driver, LEAK.digest)


async def test_bytes_that_are_written_since_the_run_began_are_kept(driver: Driver) -> None:
    """Their link is about to be written."""
    stat = await driver.find(layout.blob_data(LEAK.digest))
    assert stat is not None
    mark = await UnlinkedBytes(driver, [LEAK.digest], stat.modified - timedelta(seconds=1)).mark()
    assert mark.blobs == {}


async def test_an_earlier_rescue_does_not_keep_what_has_lost_its_links_since(driver: Driver) -> None:
    """Else content that was once requested during a collection could not be erased for a day; others stay."""
    for built in (LEAK, NEIGHBOUR):
        await driver.write(layout.rescued(built.digest), str(built.digest).encode())
    report, _ = await remove(driver, LEAK.digest)
    assert report.freed.objects == 1
    assert not await has_bytes(driver, LEAK.digest)
    assert await driver.find(layout.rescued(NEIGHBOUR.digest)) is not None
