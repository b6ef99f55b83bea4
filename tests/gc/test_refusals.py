"""Refusals: each has its cause and its remedy, and nothing was removed."""

from __future__ import annotations

import json
import signal
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.gc.running import TINY, Garbage, run, state_of
from tests.registry.instrumented import InstrumentedDriver

from moorage.gc.errors import CollectionRefused
from moorage.gc.guard import process_deadline
from moorage.gc.options import CollectionOptions
from moorage.gc.run import LEASE
from moorage.gc.work import LOCAL_ROUND
from moorage.registry import layout, nodes
from moorage.registry.lease import Lease
from moorage.registry.stored import StoredRegistry
from moorage.storage.driver import (
    ALWAYS,
    Key,
    StorageDenied,
    StorageExhausted,
    StorageReadOnly,
    StorageUnavailable,
)
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from pathlib import Path

    from moorage.gc.report import Report
    from moorage.storage.driver import Driver, Stat, Version, When

APP = RepoName("team/app")


@pytest.fixture
async def store() -> MemoryDriver:
    found = MemoryDriver()
    await Garbage().write(found)
    return found


async def unchanged(store: MemoryDriver) -> set[str]:
    """Return all keys below `docker/`, without leases and records of nodes."""
    keys = {str(stat.key) async for page in store.scan(Key("docker")) for stat in page}
    return {key for key in keys if "/leases/" not in key and "/nodes/" not in key}


async def refused(store: MemoryDriver, match: str, driver: Driver | None = None, **more: Any) -> None:
    before = await unchanged(store)
    with pytest.raises(CollectionRefused, match=match) as refusal:
        await run(driver or store, **more)
    assert "nothing" in str(refusal.value) or "one runs at a time" in str(refusal.value)
    assert await unchanged(store) == before


async def test_a_node_of_another_protocol(store: MemoryDriver) -> None:
    """It does not observe the markers: its pushes would lose what is removed beside them."""
    await store.write(layout.node("node-1"), json.dumps({"release": "0.1", "protocol": 0}).encode())
    await refused(store, r"node node-1 runs Moorage 0\.1.*update every node")
    await store.write(layout.node("node-1"), b"torn")
    await refused(store, "node node-1 runs Moorage unknown")
    await nodes.retract(store, "node-1")
    await nodes.publish(store, "node-2", "1.0")
    [record] = await nodes.live_nodes(store, now=datetime.now(UTC))
    assert (record.instance, record.version, record.protocol) == ("node-2", "1.0", nodes.PROTOCOL)
    assert (await run(store)).outcome == "finished"


async def test_a_node_that_ended_long_ago_is_forgotten(store: MemoryDriver) -> None:
    """Records of instances that never return would grow for ever."""
    await store.write(layout.node("dead"), json.dumps({"release": "0.1", "protocol": 0}).encode())
    later = datetime.now(UTC) + timedelta(seconds=2 * nodes.LIVE_S)
    assert not await nodes.live_nodes(store, now=later)
    await nodes.expire(store, now=later)
    assert await store.find(layout.node("dead")) is not None
    await nodes.expire(store, now=later + timedelta(seconds=20 * nodes.LIVE_S))
    assert await store.find(layout.node("dead")) is None


async def test_a_purging_node_of_a_release_without_protocols(store: MemoryDriver) -> None:
    """Releases before this one publish nothing; the lease of upload purging shows that one is running."""
    content = {"version": 1, "owner": "old", "term_s": 129600}
    key = layout.lease("upload-purging")
    await store.write(key, json.dumps(content).encode())
    await refused(store, "upload-purging is held by a node of another release")
    for harmless in (b"torn", b"[]", json.dumps(content | {"term_s": 0}).encode()):
        await store.write(key, harmless)
        assert (await run(store)).outcome == "finished"
    await store.delete([key])
    assert await Lease(store, "upload-purging", "new", term_s=3600).acquire()
    assert (await run(store)).outcome == "finished"


async def test_a_lease_that_is_held(store: MemoryDriver) -> None:
    assert await Lease(store, LEASE, "other", term_s=3600).acquire()
    await refused(store, "another node or process collects", now=lambda: datetime.now(UTC))


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_far_from_the_stores(store: MemoryDriver, hours: int) -> None:
    """Grace times would be as wrong as the clock."""
    wrong = datetime.now(UTC) + timedelta(hours=hours)
    await refused(store, "clock of the store differs by .* seconds", now=lambda: wrong)


async def test_a_clock_that_was_set_back(store: MemoryDriver) -> None:
    """Everything that was pushed since the last run would look older than it is."""
    await run(store, token="first")

    class Back(InstrumentedDriver):
        async def find(self, key: Key) -> Stat | None:
            found = await self._driver.find(key)
            if found is not None and "ended.first" in key:
                found._modified = datetime.now(UTC) + timedelta(minutes=2)
            return found

    await refused(store, "clock of the store was set back", Back(store))


@pytest.mark.parametrize("error", [StorageReadOnly, StorageDenied, StorageUnavailable])
async def test_a_store_that_cannot_be_written(store: MemoryDriver, error: type[Exception]) -> None:
    class Unwritable(InstrumentedDriver):
        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            raise error("no")

    await refused(store, "read-only|cannot be written", Unwritable(store))


async def test_a_store_that_cannot_be_reached(store: MemoryDriver) -> None:
    class Unreachable(InstrumentedDriver):
        async def probe(self) -> None:
            raise StorageUnavailable("no route to host")

    await refused(store, "cannot be read.*no route to host", Unreachable(store))


@pytest.mark.parametrize("missing", [True, False])
async def test_listings_that_are_eventually_consistent(store: MemoryDriver, missing: bool) -> None:
    """A link that is missing in a listing is a layer that is removed under an image; OpenStack Swift has such."""

    class Late(InstrumentedDriver):
        """A listing is one write behind."""

        seen: Sequence[str] = ()

        async def children(
            self, prefix: Key, *, after: str = "", limit: int | None = None
        ) -> AsyncIterator[Sequence[str]]:
            async for names in super().children(prefix, after=after, limit=limit):
                found = names
                probe = next((name for name in (*names, *self.seen) if name.startswith("probe.")), "")
                if probe and missing:
                    found = [name for name in names if name != probe]
                elif probe and probe not in names:
                    found = [*names, probe]
                self.seen = names
                yield found

    late = "does not have what was written" if missing else "still has what was removed"
    await refused(store, f"{late} a moment ago: .*as those of OpenStack Swift.*--dry-run only", Late(store))
    dry = await run(Late(store), CollectionOptions(delete_untagged=True, grace_s=0, dry_run=True))
    assert dry.freeable.objects


async def test_traces_of_another_registry(store: MemoryDriver, tmp_path: Path) -> None:
    """Its memory of blobs never expires, so a push to it may rely on what is removed here."""
    await store.write(Key("scheduler-state.json"), b"{}")
    await refused(store, r"scheduler-state\.json was written at")
    await store.delete([Key("scheduler-state.json")])
    await store.uploads.begin(layout.upload_home(APP, str(uuid.uuid4())))
    await refused(store, "the unfinished upload .* is one of CNCF Distribution.*foreignwriters")

    other = FilesystemDriver(tmp_path)
    registry = StoredRegistry(other, b"secret")
    started = await registry.uploads.start(APP)
    assert (await run(other)).outcome == "finished", "an upload of this registry is no trace"
    home = layout.upload_home(APP, started.uuid)
    await other.write(layout.below(home, "hashstates/sha256/0"), b"state")
    with pytest.raises(CollectionRefused, match="CNCF Distribution"):
        await run(other)
    assert "running" not in await state_of(other)
    await registry.close()


class FullDisk(InstrumentedDriver):
    """A disk with room for `room` bytes; what is deleted makes room."""

    def __init__(self, driver: MemoryDriver, room: int) -> None:
        super().__init__(driver)
        self.room = room
        self.sizes: dict[Key, int] = {}

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        if len(data) > self.room:
            raise StorageExhausted(f"{key}: no space")
        version = await super().write(key, data, when)
        self.room -= len(data)
        self.sizes[key] = len(data)
        return version

    async def delete(self, keys: Collection[Key]) -> None:
        await super().delete(keys)
        self.room += sum(self.sizes.pop(key, 0) for key in keys)

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        changed = await super().remove_unchanged(objects)
        self.room += sum(known.size for known in objects if known.key not in changed)
        return changed


async def test_a_full_disk_is_collected_with_the_reserve(store: MemoryDriver) -> None:
    """A collection is what an operator of a full disk needs first."""
    reserve = layout.collection("reserve")
    await store.write(reserve, bytes(1 << 20))
    disk = FullDisk(store, 0)
    disk.sizes[reserve] = 1 << 20
    report = await run(disk)
    assert report.outcome == "finished", report.reason
    await Garbage().check(store)


async def test_a_full_disk_without_reserve_is_reported(store: MemoryDriver) -> None:
    await refused(store, "the store is full, and there is no reserve", FullDisk(store, 0))


@pytest.mark.parametrize("round_objects", [LOCAL_ROUND, TINY])
@pytest.mark.parametrize("room", [900, 1200])
async def test_a_nearly_full_disk_is_collected_in_parts(
    store: MemoryDriver, room: int, round_objects: int
) -> None:
    """Fewer markers than candidates: the rest goes in the next runs, and nothing in between is broken."""
    disk = FullDisk(store, room)
    reports: list[Report] = []
    while not reports or reports[-1].outcome != "finished" or reports[-1].kept:
        reports.append(await run(disk, round_objects=round_objects))
        await Garbage().check(store, removed=False)
        assert len(reports) < 20
    await Garbage().check(store)


def test_a_timer_that_is_in_use() -> None:
    """Two users of one timer: a deletion without its deadline."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        with pytest.raises(CollectionRefused, match="process of its own"), process_deadline(60):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
