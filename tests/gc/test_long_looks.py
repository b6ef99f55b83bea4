"""A store whose mark takes longer than the time in which removals of a round may begin."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import DyingDriver, FakeClock, Garbage, collection_of, run, state_of
from tests.moments import moments
from tests.registry.instrumented import InstrumentedDriver

from moorage.gc.errors import CollectionRefused
from moorage.gc.run import collect
from moorage.gc.sweep import DEADLINE_S, GUARD_S, LOOK_S
from moorage.registry import layout
from moorage.registry.collection_state import DOOMED, list_state
from moorage.storage.driver import StorageError, StorageExhausted
from moorage.storage.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from moorage.gc.marked import Marked
    from moorage.gc.report import Report
    from moorage.gc.run import MarkSource
    from moorage.gc.work import Work
    from moorage.storage.driver import Driver

LONG_S = 700.0
assert LONG_S > DEADLINE_S


class LongMark:
    """A mark that takes `seconds`; `during` is called in it while content is doomed."""

    def __init__(
        self,
        mark: MarkSource,
        driver: Driver,
        clock: FakeClock,
        seconds: float,
        during: Callable[[], Awaitable[None]],
    ) -> None:
        self._mark = mark
        self._driver = driver
        self._clock = clock
        self._seconds = seconds
        self._during = during

    async def mark(self, wanted: Work | None = None) -> Marked:
        marked = await self._mark.mark(wanted)
        self._clock.seconds += self._seconds
        if any(name.kind == DOOMED for name in await list_state(self._driver)):
            await self._during()
        return marked


async def nothing() -> None:
    """Leave the store alone."""


async def run_long(
    driver: Driver,
    *,
    seconds: float = LONG_S,
    during: Callable[[], Awaitable[None]] = nothing,
    guard: Callable[[float], AbstractContextManager[None]] = lambda _: nullcontext(),
    owner: str = "test",
) -> Report:
    clock = FakeClock()
    collection = collection_of(driver, clock=clock, guard=guard, owner=owner)
    marker = collection.marker

    def long(now: datetime) -> MarkSource:
        return LongMark(marker(now), driver, clock, seconds, during)

    return await collect(replace(collection, marker=long))


class Doomed(InstrumentedDriver):
    """Keeps the numbers of the lists of doomed digests that are written and removed, in order."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.lists: list[tuple[str, str]] = []

    async def after_change(self, call: str) -> None:
        if f"/{DOOMED}." in call:
            self.lists.append((call.partition(" ")[0], call.rpartition(".")[2][:5]))


@pytest.mark.parametrize("seconds", [LOOK_S, LOOK_S + 1, LONG_S, 40 * LONG_S])
async def test_a_long_look_removes_everything_in_one_run(seconds: float) -> None:
    """A large store would never lose a byte; and its lists would be too old to protect what a push stores."""
    driver = Doomed(MemoryDriver())
    garbage = Garbage()
    await garbage.write(driver)
    armed: list[float] = []

    def guard(limit: float) -> AbstractContextManager[None]:
        armed.append(limit)
        return nullcontext()

    report = await run_long(driver, seconds=seconds, guard=guard)
    assert (report.outcome, report.reason) == ("finished", "")
    await garbage.check(driver)
    assert await state_of(driver) == {"ended", "reserve"}
    if seconds <= LOOK_S:
        # The timer may begin as late as the look may end.
        assert armed == [GUARD_S - LOOK_S]
        assert [number for kind, number in driver.lists if kind == "write"] == ["00000", "00001"]
    else:
        assert armed == [GUARD_S - LOOK_S, GUARD_S]
        numbers = [f"{number:05}" for number in range(4)]
        assert [number for kind, number in driver.lists if kind == "write"] == numbers
        assert driver.lists[:4] == [("write", number) for number in numbers], "no list goes before its copy"


async def test_lists_that_were_removed_during_the_look_are_not_renewed() -> None:
    """A push has stored what was on them meanwhile: it was not doomed, and the mark may have read before that."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)

    async def take_over() -> None:
        found = [name for name in await list_state(store) if name.kind == DOOMED]
        await store.delete([layout.collection(str(name)) for name in found])

    report = await run_long(store, during=take_over)
    assert report.outcome == "interrupted"
    assert "another collector has taken over" in report.reason
    assert not report.freed.objects
    assert report.manifests == report.layers == 0
    assert "doomed" not in await state_of(store)
    assert (await run(store)).outcome == "finished"
    await garbage.check(store)


@pytest.mark.parametrize("room", [2, 3])
async def test_a_disk_that_is_full_when_lists_are_renewed_keeps_everything(room: int) -> None:
    """Without lists that are young enough, nothing may be removed; neither may anything stay doomed."""

    class Full(InstrumentedDriver):
        lists = 0

        async def before(self, call: str) -> None:
            if call.startswith("write ") and f"/{DOOMED}." in call:
                self.lists += 1
                if self.lists > room:
                    raise StorageExhausted("no space left on device")

    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)
    report = await run_long(Full(store))
    assert report.outcome == "interrupted"
    assert "the store is full, and the lists of this run could not be renewed" in report.reason
    assert not report.freed.objects
    assert "doomed" not in await state_of(store)
    await garbage.check(store, removed=False)
    assert (await run(store)).outcome == "finished"
    await garbage.check(store)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "step"), [(False, 9), (True, 11)])
async def test_a_run_with_long_looks_that_dies_at_any_call_is_finished_by_the_next(after: bool, step: int) -> None:
    """Old and new lists at once, or one of them: each is quarantined, and then removed."""
    counted = MemoryDriver()
    await Garbage().write(counted)
    counting = DyingDriver(counted)
    await run_long(counting)
    for at in moments(counting.calls, step):
        store = MemoryDriver()
        garbage = Garbage()
        await garbage.write(store)
        with suppress(StorageError, CollectionRefused):  # none at the last calls, which release the lease
            await run_long(DyingDriver(store, at, after=after), owner="dead")
        await garbage.check(store, removed=False)
        report = await run(store, owner="heir")
        await garbage.check(store)
        assert report.outcome == "finished", report.reason
        assert await state_of(store) <= {"ended", "reserve"}, at
