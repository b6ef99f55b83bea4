"""Runs of a collection: what goes, what stays, and what a crash at any call leaves."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.gc.running import APP, TINY, DyingDriver, FakeClock, Garbage, gone, put, run, state_of
from tests.moments import moments
from tests.registry.instrumented import InstrumentedDriver

from moorage.gc.errors import CollectionRefused
from moorage.gc.options import CollectionOptions
from moorage.gc.report import Report
from moorage.gc.run import LEASE, QUARANTINE_S
from moorage.gc.sweep import GUARD_S
from moorage.gc.work import LOCAL_ROUND
from moorage.registry import layout
from moorage.registry.boot_clock import boot_seconds
from moorage.registry.collection_pause import pause, resume
from moorage.registry.collection_state import RENEW_S, RUNNING, list_state
from moorage.storage.driver import ALWAYS, READ_LIMIT_BYTES, Content, StorageError, StorageUnavailable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob, image, index
from moorage.testing.memory_objects import Bucket, MemoryObjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.storage.driver import Bulk, Driver, Key, Version, When


@pytest.fixture(params=["memory", "filesystem", "objects", "inexact"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    found: Driver = MemoryDriver()
    if request.param == "filesystem":
        found = FilesystemDriver(tmp_path / "store")
    elif request.param != "memory":
        found = ObjectDriver.with_chunk_log(MemoryObjects(Bucket(exact=request.param == "objects")))
    yield found
    await found.close()


@pytest.mark.parametrize(("simple", "round_objects"), [(False, LOCAL_ROUND), (True, LOCAL_ROUND), (False, TINY)])
async def test_garbage_goes_and_everything_else_stays(store: Driver, simple: bool, round_objects: int) -> None:
    """One run removes what nothing needs, once; the report has it in objects and bytes."""
    garbage = Garbage()
    await garbage.write(store)
    report = await run(store, simple=simple, round_objects=round_objects)
    await garbage.check(store)
    assert (report.outcome, report.reason) == ("finished", "")
    assert report.freed == report.freeable
    assert report.freed.bytes > 70 + 80 + 90 + 95
    assert await state_of(store) == {"ended", "reserve"}
    second = await run(store)
    assert second.freed.objects == second.freeable.objects == 0
    assert await state_of(store) == {"ended", "reserve"}


def set_times(folder: Path, at_ns: int) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        os.utime(path, ns=(at_ns, at_ns))


@pytest.mark.parametrize("simple", [False, True])
async def test_what_is_as_old_as_the_run_is_not_young(tmp_path: Path, simple: bool) -> None:
    """Times of files advance in steps of milliseconds, and have more digits than a datetime."""

    class OneTick(InstrumentedDriver):
        @property
        def bulk(self) -> Bulk:
            return self._driver.bulk

        async def after_change(self, call: str) -> None:
            if call.startswith("write ") and f"/{RUNNING}." in call:
                set_times(tmp_path, time.time_ns() // 1000 * 1000 + 490)  # a datetime rounds it down

    store = FilesystemDriver(tmp_path)
    garbage = Garbage()
    await garbage.write(store)
    await run(OneTick(store), simple=simple)
    await garbage.check(store)
    await store.close()


async def calls_of_a_run(**more: Any) -> int:
    store = MemoryDriver()
    await Garbage().write(store)
    counting = DyingDriver(store)
    await run(counting, **more)
    return counting.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "simple", "round_objects", "step"),
    [
        (False, True, LOCAL_ROUND, 5),
        (True, True, LOCAL_ROUND, 5),
        (False, False, LOCAL_ROUND, 19),
        (False, True, TINY, 13),
        (True, True, TINY, 17),
        (False, False, TINY, 41),
    ],
)
async def test_a_run_that_dies_at_any_call_is_finished_by_the_next(
    after: bool, simple: bool, round_objects: int, step: int
) -> None:
    """A killed collector leaves markers: they must neither stay, nor cost anything that lives."""
    more: dict[str, Any] = {"simple": simple, "round_objects": round_objects}
    for at in moments(await calls_of_a_run(**more), step):
        store = MemoryDriver()
        garbage = Garbage()
        await garbage.write(store)
        with suppress(StorageError, CollectionRefused):  # none at the last calls, which release the lease
            await run(DyingDriver(store, at, after=after), owner="dead", **more)
        await garbage.check(store, removed=False)
        report = await run(store, owner="heir", **more)
        assert not report.kept
        await garbage.check(store)
        assert report.outcome == "finished", report.reason
        assert await state_of(store) <= {"ended", "reserve"}, at


async def test_a_dead_run_is_continued_without_another_wait(store: Driver) -> None:
    """Ten minutes once, however often the process is restarted."""
    await Garbage().write(store)
    clock = FakeClock()

    async def die(seconds: float) -> None:
        if seconds > 300:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run(store, clock=FakeClock(die))
    assert await state_of(store) == {"running", "condemned", "reserve"}
    waited: list[str] = []
    report = await run(store, clock=clock, progress=lambda phase, done, total: waited.append(phase))
    # The clock of the store has not moved: the whole wait is due, once, and counted from the first run.
    assert report.resumed
    assert 118 <= waited.count("waiting") <= 120
    assert await state_of(store) == {"ended", "reserve"}


async def test_lists_of_a_dead_run_are_used_when_they_are_old_enough() -> None:
    """Content that was condemned ten minutes ago goes at once."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)

    async def die(seconds: float) -> None:
        if seconds > 300:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run(store, clock=FakeClock(die))
    waited: list[str] = []
    options = CollectionOptions(delete_untagged=True, grace_s=0, wait_s=0)
    report = await run(store, options, progress=lambda phase, done, total: waited.append(phase))
    assert "waiting" not in waited
    assert report.resumed
    await garbage.check(store)


@pytest.mark.parametrize("round_objects", [LOCAL_ROUND, TINY])
async def test_what_a_manifest_keeps_goes_with_it_when_that_was_condemned_later(round_objects: int) -> None:
    """Not in the next run; and nothing was requested, so nothing is reported as kept."""
    store = MemoryDriver()
    await put(store, image(seed=9), "v1")
    layer = blob(seed=1)
    await store.write(layout.blob_data(layer.digest), layer.data)
    await store.write(layout.layer_link(APP, layer.digest), str(layer.digest).encode())

    async def die(seconds: float) -> None:
        if seconds > 300:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run(store, clock=FakeClock(die))
    # From a push that ended before it was confirmed; an index of it is the only one that names the layer.
    parent = index(image(layer, seed=1))
    await put(store, parent)
    phases: list[str] = []
    options = CollectionOptions(delete_untagged=True, grace_s=0, undo_s=0, wait_s=1)
    report = await run(
        store, options, round_objects=round_objects, progress=lambda phase, *_: phases.append(phase)
    )
    assert (report.resumed, report.kept) == (True, 0)
    assert "waiting" in phases, "the index was condemned by this run"
    for part in parent.closure:
        assert await gone(store, part)
    assert await state_of(store) == {"ended", "reserve"}


async def test_what_a_dead_run_was_removing_is_not_touched_in_its_quarantine() -> None:
    """Its DELETE may still arrive: then the digest has to be doomed, or a push would lose what it stored."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)

    class Hanging(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call.startswith("remove "):
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run(Hanging(store))
    assert "doomed" in await state_of(store)
    phases: list[str] = []
    deleted: list[str] = []

    class Watching(InstrumentedDriver):
        async def after_change(self, call: str) -> None:
            if call.startswith("remove "):
                deleted.append([phase for phase in phases if phase != "marking"][-1])

    clock = FakeClock()
    report = await run(Watching(store), clock=clock, progress=lambda phase, done, total: phases.append(phase))
    assert report.quarantined
    assert set(deleted) == {"quarantine"}
    assert clock.seconds > GUARD_S + QUARANTINE_S
    await garbage.check(store)
    assert await state_of(store) == {"ended", "reserve"}


async def test_a_dry_run_writes_nothing() -> None:
    """Not even a lease: it is how operators look at a store that they do not trust yet."""
    store = MemoryDriver()
    await Garbage().write(store)
    watched = InstrumentedDriver(store)
    options = CollectionOptions(delete_untagged=True, grace_s=0, dry_run=True)
    report = await run(watched, options, now=lambda: datetime.now(UTC) + timedelta(seconds=1))
    assert not watched.changes
    assert report.dry_run
    assert report.freeable.objects
    assert not report.freed.objects


async def test_a_foreign_writer_gets_dry_runs_only() -> None:
    """CNCF Distribution keeps descriptors for ever and observes no marker: beside it nothing may go."""
    store = MemoryDriver()
    await Garbage().write(store)
    watched = InstrumentedDriver(store)
    report = await run(watched, foreign_writers=True)
    assert not watched.changes
    assert report.dry_run
    assert "foreignwriters" in report.reason


async def test_a_paused_run_leaves_nothing_to_observe(store: Driver) -> None:
    """A pause may last for weeks, in which each process would list the state every second."""
    garbage = Garbage()
    await garbage.write(store)

    async def pause_it(seconds: float) -> None:
        if seconds > 300:
            await pause(store, "admin")

    report = await run(store, clock=FakeClock(pause_it))
    assert report.outcome == "paused"
    assert await state_of(store) == {"ended", "reserve", "paused"}
    with pytest.raises(CollectionRefused, match=r"paused since .* by admin"):
        await run(store)
    await resume(store)
    assert not (await run(store)).resumed
    await garbage.check(store)


@pytest.mark.parametrize("seconds", [5, 6])
async def test_a_run_that_was_interrupted_before_it_condemned_leaves_nothing(seconds: float) -> None:
    """Requests would list the state every second until the next run, for nothing."""
    store = MemoryDriver()
    await Garbage().write(store)

    async def die(now: float) -> None:
        if now >= seconds:
            raise asyncio.CancelledError

    class Dying(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if seconds > 5 and "condemned" in call:
                raise StorageUnavailable("no answer")

    with pytest.raises((asyncio.CancelledError, StorageUnavailable)):
        await run(Dying(store), clock=FakeClock(die if seconds == 5 else None))
    assert await state_of(store) <= {"reserve"} | ({"running"} if seconds > 5 else set())


@pytest.mark.parametrize("is_empty", [False, True])
async def test_a_run_waits_for_listings_at_both_ends(is_empty: bool) -> None:
    """Its `ended` has to be observed before that of the last run goes, also if it has removed nothing itself."""
    store = MemoryDriver()
    if not is_empty:
        await Garbage().write(store)
    clock = FakeClock()
    assert (await run(store, CollectionOptions(grace_s=0, wait_s=0), clock=clock)).outcome == "finished"
    assert clock.seconds == pytest.approx(2 * (RENEW_S * 1.05 + 0.25))


@pytest.mark.parametrize("moment", ["waiting", "removing"])
async def test_a_lost_lease_stops_a_run(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Another node has taken it: nothing more is removed, and nothing stays doomed."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)
    lost = False
    monkeypatch.setattr("moorage.gc.run.boot_seconds", lambda: boot_seconds() + (1000 if lost else 0))

    async def lose(seconds: float = 1000) -> None:
        nonlocal lost
        if seconds > 300 and not lost:
            lost = True
            await store.write(layout.lease(LEASE), b'{"owner": "heir", "term_s": 120}')

    class Watching(InstrumentedDriver):
        removed_late = 0

        async def before(self, call: str) -> None:
            is_state = layout.COLLECTION in call or LEASE in call
            self.removed_late += lost and not is_state and call.startswith(("remove ", "delete "))

        async def after_change(self, call: str) -> None:
            if moment == "removing" and call.startswith("delete ") and "_layers" in call:
                await lose()

    watching = Watching(store)
    report = await run(watching, clock=FakeClock(lose if moment == "waiting" else None))
    assert (report.outcome, report.reason[:21]) == ("interrupted", "the lease of this run")
    assert lost
    assert not watching.removed_late
    assert "doomed" not in await state_of(store)
    assert (await store.read(layout.lease(LEASE))).data.startswith(b'{"owner": "heir"')
    await garbage.check(store, removed=False)
    lost = False
    assert (await run(store, owner="heir")).outcome == "finished"
    await garbage.check(store)
    assert await state_of(store) == {"ended", "reserve"}


async def test_a_run_that_was_replaced_removes_its_lists() -> None:
    """Its successor has looked before they were written; requests would observe them until the next run."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)

    async def replace_it(seconds: float) -> None:
        if seconds > 300:
            found = [name for name in await list_state(store) if name.kind == RUNNING]
            await store.delete([layout.collection(str(name)) for name in found])

    report = await run(store, clock=FakeClock(replace_it))
    assert report.outcome == "interrupted"
    assert "another collector has taken over" in report.reason
    assert not report.freed.objects
    assert await state_of(store) == {"reserve"}
    await garbage.check(store, removed=False)


async def test_a_run_paused_between_two_rounds_leaves_nothing_doomed() -> None:
    """Doomed content is absent to clients: a pause of a week must not make pushes fail for a week."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)

    class Pausing(InstrumentedDriver):
        async def after_change(self, call: str) -> None:
            if call.startswith("delete ") and "_layers" in call:
                await pause(self._driver, "")

    assert (await run(Pausing(store))).outcome == "paused"
    assert "doomed" not in await state_of(store)
    await garbage.check(store, removed=False)
    await resume(store)
    assert (await run(store)).outcome == "finished"
    await garbage.check(store)


@pytest.mark.parametrize("round_objects", [LOCAL_ROUND, TINY])
async def test_two_collectors_at_once_lose_nothing(round_objects: int) -> None:
    """The lease is an optimization: each collector is safe by its own markers."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)
    reports = await asyncio.gather(
        *(run(NoLease(store), owner=f"node {number}", round_objects=round_objects) for number in range(2)),
        return_exceptions=True,
    )
    await garbage.check(store, removed=False)
    for report in reports:
        assert isinstance(report, Report), report
    last = await run(store)
    assert last.outcome == "finished", last.reason
    await garbage.check(store)
    assert await state_of(store) == {"ended", "reserve"}


class NoLease(InstrumentedDriver):
    """A store in which every lease is free."""

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        content = await super().read(key, limit=limit)
        if key != layout.lease(LEASE):
            return content
        return Content(self.lease, content.version)

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        if key == layout.lease(LEASE):
            self.lease = data
            when = ALWAYS
        return await super().write(key, data, when)

    lease = b""
