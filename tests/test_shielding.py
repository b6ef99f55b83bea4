"""Cancellation waits for requests that were sent."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from moorage.shielding import run_to_completion, run_with_thread

if TYPE_CHECKING:
    from collections.abc import Sequence


async def test_a_cancelled_caller_waits_for_the_end_of_the_work_however_often() -> None:
    """A store would still write what its caller has cleaned up already."""
    begun, release, done = asyncio.Event(), asyncio.Event(), False

    async def work() -> None:
        nonlocal done
        begun.set()
        await release.wait()
        done = True

    caller = asyncio.create_task(run_to_completion(work()))
    await begun.wait()
    for _ in range(3):
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done


async def test_results_and_errors_of_the_work_are_its_callers() -> None:
    async def work() -> int:
        return 1

    async def failing() -> int:
        raise ZeroDivisionError

    assert await run_to_completion(work()) == 1
    with pytest.raises(ZeroDivisionError):
        await run_to_completion(failing())


async def test_chunks_are_not_used_any_more_when_the_work_fails() -> None:
    """A buffer that is filled again while a thread hashes it gives a wrong digest."""
    begun, release = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def hash_chunks(chunks: Sequence[bytes]) -> None:
        begun.set()
        assert release.wait(30)
        seen.extend(chunks)

    async def failing() -> None:
        await asyncio.to_thread(begun.wait)
        asyncio.get_running_loop().call_soon(release.set)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_with_thread(failing(), [b"chunk"], hash_chunks)
    assert seen == [b"chunk"]
