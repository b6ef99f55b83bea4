"""Single-flight: concurrent callers with the same key share one task."""

from __future__ import annotations

import asyncio

import pytest

from moorage.coalescing import SingleFlight


async def test_it_is_done_once_and_again_later() -> None:
    shared: SingleFlight[str, int] = SingleFlight()
    runs, release = 0, asyncio.Event()

    async def work() -> int:
        nonlocal runs
        runs += 1
        await release.wait()
        return runs

    waiting = [asyncio.create_task(shared.run("key", work)) for _ in range(3)]
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert await shared.run("key", work) == 2


async def test_one_that_is_cancelled_does_not_end_it_for_the_others() -> None:
    shared: SingleFlight[str, str] = SingleFlight()
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    first, second = (asyncio.create_task(shared.run("key", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    release.set()
    assert await second == "done"


async def test_an_error_is_raised_to_all_callers_and_close_ends_the_rest() -> None:
    shared: SingleFlight[str, str] = SingleFlight()

    async def fail() -> str:
        raise LookupError

    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    with pytest.raises(LookupError):
        await shared.run("key", fail)
    waiting = asyncio.create_task(shared.run("key", hang))
    await asyncio.sleep(0)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
