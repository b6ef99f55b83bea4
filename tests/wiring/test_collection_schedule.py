"""The schedule of garbage collection: one run per interval in the whole cluster, none during a pause."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs

from moorage.gc.errors import CollectionRefused
from moorage.registry import layout
from moorage.registry.collection_pause import pause, resume
from moorage.registry.collection_state import ENDED, RESERVE, new_token
from moorage.storage.driver import ALWAYS, StorageDenied, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.wiring.collection_schedule import CollectionSchedule, keep_reserve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.storage.driver import Driver, Key, Version, When

DAY_S: Final = 86_400.0


class Runs:
    """A collection that only counts; `error` is raised instead of a result."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.count = 0
        self.error: Exception | None = None
        self.outcome = "finished"

    async def __call__(self) -> Mapping[str, object]:
        self.count += 1
        if self.error is not None:
            raise self.error
        await self.driver.write(layout.collection(f"{ENDED}.{new_token()}"), b"{}")
        return {"outcome": self.outcome, "blobs": 3}


def _schedule(
    driver: Driver, runs: Runs, *, reports_only: bool = False, ahead_s: float = 0.0
) -> CollectionSchedule:
    return CollectionSchedule(
        driver,
        runs,
        interval_s=DAY_S,
        reports_only=reports_only,
        now=lambda: datetime.now(UTC) + timedelta(seconds=ahead_s),
    )


async def test_a_run_is_due_once_per_interval_wherever_it_ran() -> None:
    """Three nodes, or a server that restarts every hour, do not examine the store each time."""
    driver = MemoryDriver()
    runs = Runs(driver)
    with capture_logs() as logs:
        assert await _schedule(driver, runs).step() == DAY_S
    (line,) = logs
    assert (line["event"], line["blobs"]) == ("garbage collected", 3)
    other = Runs(driver)
    wait_s = await _schedule(driver, other).step()
    assert DAY_S - 60 < wait_s <= DAY_S
    assert other.count == 0
    assert await _schedule(driver, other, ahead_s=DAY_S + 60).step() == DAY_S
    assert (runs.count, other.count) == (1, 1)


async def test_a_clock_that_was_ahead_delays_a_run_by_an_interval_at_most() -> None:
    driver = MemoryDriver()
    await Runs(driver)()
    assert await _schedule(driver, Runs(driver), ahead_s=-10 * DAY_S).step() == DAY_S


async def test_a_pause_is_looked_at_again_and_logged_once() -> None:
    driver = MemoryDriver()
    runs = Runs(driver)
    schedule = _schedule(driver, runs)
    await pause(driver, "backup")
    with capture_logs() as logs:
        assert await schedule.step() == 600
        assert await schedule.step() == 600
    (line,) = logs
    assert "by backup" in line["reason"]
    assert runs.count == 0
    await resume(driver)
    assert await schedule.step() == DAY_S
    assert runs.count == 1


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (CollectionRefused("the node b collects"), "garbage is not collected"),
        (StorageUnavailable("timeout"), "garbage collection stopped early; the next run continues"),
    ],
)
async def test_a_run_that_cannot_be_done_is_tried_again_soon(error: Exception, event: str) -> None:
    """An interrupted run is continued: what it announced is not waited for again."""
    driver = MemoryDriver()
    runs = Runs(driver)
    runs.error = error
    with capture_logs() as logs:
        assert await _schedule(driver, runs).step() == 600
    assert [line["event"] for line in logs] == [event]
    assert str(error) in str(logs[0])


async def test_a_run_that_ended_early_is_continued_soon() -> None:
    """An operator has paused it, or the lease was lost; a day later is too late."""
    driver = MemoryDriver()
    runs = Runs(driver)
    runs.outcome = "paused"
    with capture_logs() as logs:
        assert await _schedule(driver, runs).step() == 600
    assert (logs[0]["event"], logs[0]["log_level"]) == (
        "garbage collection stopped early; the next run continues",
        "warning",
    )


async def test_runs_that_only_report_are_counted_by_the_node() -> None:
    """They leave nothing in the store, which another registry also writes to."""
    driver = MemoryDriver()
    runs = Runs(driver)
    schedule = _schedule(driver, runs, reports_only=True)
    with capture_logs() as logs:
        assert await schedule.step() == DAY_S
        assert await schedule.step() == DAY_S
    assert [line["event"] for line in logs] == ["garbage would be collected"] * 2


async def test_it_runs_until_it_is_cancelled_beginning_at_a_random_moment() -> None:
    """Nodes that start together do not list a bucket together."""
    driver = MemoryDriver()
    runs = Runs(driver)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError

    schedule = CollectionSchedule(driver, runs, interval_s=DAY_S, sleep=sleep)
    with pytest.raises(asyncio.CancelledError):
        await schedule.run()
    assert 0 <= slept[0] <= 3600
    assert slept[1] == DAY_S
    assert runs.count == 1


async def test_the_reserve_is_made_once() -> None:
    driver = MemoryDriver()
    await keep_reserve(driver)
    first = await driver.stat(layout.collection(RESERVE))
    await keep_reserve(driver)
    assert (await driver.stat(layout.collection(RESERVE))).modified == first.modified
    assert first.size == 2**20


async def test_a_store_that_refuses_the_reserve_is_logged() -> None:
    """The registry serves and collects all the same."""

    class Denied(MemoryDriver):
        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            del key, data, when
            raise StorageDenied("write: AccessDenied")

    with capture_logs() as logs:
        await keep_reserve(Denied())
    assert "AccessDenied" in logs[0]["cause"]
