"""A collector that is stopped (SIGSTOP) between its last check and the removal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import Garbage, gone, run, state_of

from moorage.registry import layout
from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    found = FilesystemDriver(tmp_path)
    yield found
    await found.close()


def stopped_collector(folder: Path, deadline_s: float) -> int:
    """Return the pid of a collector process that has stopped itself just before its first removal of bytes."""
    command = [sys.executable, "-m", "tests.gc.stopped_collector", str(folder), str(deadline_s)]
    pid = os.posix_spawn(sys.executable, command, dict(os.environ, PYTHONPATH=str(ROOT)))
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"it has ended: {status}"
    return pid


async def test_a_collector_that_was_stopped_too_long_dies_before_its_removal(
    store: FilesystemDriver, tmp_path: Path
) -> None:
    """Its digests were free again long ago: what a push has stored meanwhile would go."""
    garbage = Garbage()
    await garbage.write(store)
    pid = await asyncio.to_thread(stopped_collector, tmp_path, 3)
    assert "doomed" in await state_of(store)
    # The timer counts while the process is stopped; its signal waits until the process is continued.
    await asyncio.to_thread(_wait_for_pending_alarm, pid)
    os.kill(pid, signal.SIGCONT)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGALRM
    assert await store.find(layout.blob_data(garbage.orphan.digest)) is not None
    report = await run(store)
    assert report.quarantined
    await garbage.check(store)
    assert await state_of(store) == {"ended", "reserve"}


async def test_a_collector_that_was_stopped_for_a_moment_goes_on(store: FilesystemDriver, tmp_path: Path) -> None:
    """Its digests are doomed as long as it may remove them."""
    garbage = Garbage()
    await garbage.write(store)
    pid = await asyncio.to_thread(stopped_collector, tmp_path, 60)
    os.kill(pid, signal.SIGCONT)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await gone(store, garbage.orphan)
    await garbage.check(store)


def _wait_for_pending_alarm(pid: int) -> None:
    """Return when the kernel has queued SIGALRM for the stopped process."""
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        [pending] = [line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:")]
        if int(pending, 16) >> (signal.SIGALRM - 1) & 1:
            return
        time.sleep(0.02)
