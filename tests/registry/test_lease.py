"""Leases: one node of a cluster does the work, a dead one is replaced, a store that refuses them stops nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.registry.instrumented import InstrumentedDriver

from moorage.registry import layout
from moorage.registry.lease import Lease, read_holder
from moorage.storage.driver import ALWAYS, Conflict, KeyMissing, StorageDenied, StorageUnavailable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.memory_objects import Bucket, MemoryObjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from moorage.storage.driver import Driver, Key, Version, When

TERM_S = 3600.0
KEY = layout.lease("work")


@pytest.fixture(params=["memory", "filesystem", "objects"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    found: Driver = MemoryDriver()
    if request.param == "filesystem":
        found = FilesystemDriver(tmp_path / "store")
    elif request.param == "objects":
        found = ObjectDriver.with_chunk_log(MemoryObjects(Bucket()))
    yield found
    await found.close()


def later(seconds: float) -> Callable[[], datetime]:
    """Return a clock that is ahead of the store's."""
    return lambda: datetime.now(UTC) + timedelta(seconds=seconds)


def lease(driver: Driver, owner: str, ahead_s: float = 0.0) -> Lease:
    return Lease(driver, "work", owner, term_s=TERM_S, now=later(ahead_s))


async def test_one_node_holds_the_lease_and_extends_it(store: Driver) -> None:
    """N nodes that list a bucket cost N times as many requests."""
    first, second = lease(store, "first"), lease(store, "second")
    assert await first.acquire()
    assert not await second.acquire()
    assert await first.acquire()
    assert json.loads((await store.read(KEY)).data)["owner"] == "first"


async def test_a_dead_holder_is_replaced_when_its_term_is_over(store: Driver) -> None:
    """Else no node would purge again."""
    assert await lease(store, "dead").acquire()
    assert not await lease(store, "heir", TERM_S - 60).acquire()
    assert await lease(store, "heir", TERM_S + 1).acquire()
    assert not await lease(store, "dead").acquire(), "a holder that was only slow finds out"


async def test_a_released_lease_is_free_at_once(store: Driver) -> None:
    """A restart of the node must not stop the work for the rest of the term."""
    first, second = lease(store, "first"), lease(store, "second")
    assert await first.acquire()
    await second.release()
    assert not await second.acquire(), "only the holder releases it"
    await first.release()
    assert await second.acquire()
    await first.release()
    assert not await first.acquire()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"owner": 7}', b"[" * 4000, b"x" * 5000])
async def test_an_unreadable_lease_expires_like_any_other(store: Driver, content: bytes) -> None:
    """What a later version or an operator put there neither breaks the job nor is overwritten at once."""
    await store.write(KEY, content)
    assert not await lease(store, "node").acquire()
    assert await lease(store, "node", TERM_S + 1).acquire()


async def test_a_lease_written_with_a_clock_far_ahead_is_replaced(store: Driver) -> None:
    """Else no node would purge until the clocks of all have reached that time, perhaps in years."""
    assert await lease(store, "dead").acquire()
    assert not await lease(store, "heir", 60 - TERM_S).acquire()
    assert await lease(store, "heir", -TERM_S - 1).acquire()


async def test_a_directory_in_place_of_the_lease_is_reported(tmp_path: Path) -> None:
    """The work is done without a lease; no node would do it, and no line in the log would say why."""
    (tmp_path / KEY).mkdir(parents=True)
    store = FilesystemDriver(tmp_path)
    with pytest.raises(StorageUnavailable, match="is no object"):
        await lease(store, "node").acquire()
    await store.close()


class NoConditions(InstrumentedDriver):
    """A store that ignores conditions, as some servers of S3 do; `during` runs before a write."""

    def __init__(self, driver: Driver, during: Lease | None = None) -> None:
        super().__init__(driver)
        self.during = during

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        rival, self.during = self.during, None
        if rival is not None:
            assert await rival.acquire()
        return await super().write(key, data, ALWAYS)


async def test_without_conditional_writes_the_last_writer_holds_it() -> None:
    """Nothing in a bucket may rest on a condition alone: the loser reads the other name when it extends."""
    bare = MemoryDriver()
    first = lease(bare, "first")
    second = lease(NoConditions(bare, during=first), "second")
    assert await second.acquire()
    assert not await first.acquire()


@pytest.mark.parametrize("error", [Conflict, KeyMissing])
async def test_a_race_that_is_lost_is_no_error(error: type[Exception]) -> None:
    class Lost(InstrumentedDriver):
        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            assert await lease(self._driver, "rival").acquire()
            raise error(key)

    assert not await lease(Lost(MemoryDriver()), "node").acquire()


async def test_a_store_that_refuses_the_lease_is_reported() -> None:
    """The caller decides that its work is harmless without."""

    class ReadOnly(InstrumentedDriver):
        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            raise StorageDenied("no permission")

    with pytest.raises(StorageDenied):
        await lease(ReadOnly(MemoryDriver()), "node").acquire()


async def test_the_holder_can_be_named(store: Driver) -> None:
    """An operator whose run is refused has to know which host to look at."""
    assert await read_holder(store, "work") is None
    assert await lease(store, "host-1").acquire()
    holder = await read_holder(store, "work")
    assert holder is not None
    assert (holder.owner, holder.term_s) == ("host-1", TERM_S)
    assert not holder.has_expired(datetime.now(UTC))
    assert holder.has_expired(datetime.now(UTC) + timedelta(seconds=TERM_S + 60))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"owner": 1, "term_s": null}', b"x" * 5000])
async def test_a_lease_that_cannot_be_read_names_nobody(data: bytes) -> None:
    driver = MemoryDriver()
    await driver.write(KEY, data, ALWAYS)
    assert await read_holder(driver, "work") is None
