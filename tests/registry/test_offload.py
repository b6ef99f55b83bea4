"""Large documents are worked on beside the event loop, one after another."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from moorage.registry.offload import Offload


async def test_small_documents_are_worked_on_at_once() -> None:
    """A change of threads costs more than most manifests do."""
    offload = Offload(inline_bytes=10)
    assert await offload.run(10, threading.current_thread) is threading.current_thread()
    assert await offload.run(11, threading.current_thread) is not threading.current_thread()


async def test_the_event_loop_runs_meanwhile() -> None:
    """The work waits here for something that only the event loop can do."""
    offload, answered = Offload(), threading.Event()
    work = asyncio.ensure_future(offload.run(1 << 20, lambda: answered.wait(60)))
    await asyncio.sleep(0)
    answered.set()
    assert await work


async def test_one_document_at_a_time_even_if_its_request_has_ended() -> None:
    """Memory is bounded by one document, however many requests there are or were."""
    offload, release = Offload(), threading.Event()
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        release.wait(60)
        running.pop()

    tasks = [asyncio.ensure_future(offload.run(1 << 20, work)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[0]
    release.set()
    await asyncio.gather(*tasks[1:])
    assert set(most) == {1}
    assert len(most) >= 4


async def test_an_error_reaches_its_caller() -> None:
    """And the thread continues with the next."""
    offload = Offload()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await offload.run(1 << 20, lambda: 1 // 0)
