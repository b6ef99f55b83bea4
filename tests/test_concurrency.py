"""Bounded concurrency: not too many at once, a slow one holds up no other, and a failure ends all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from moorage.concurrency import for_each, one_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_the_next_begins_as_soon_as_one_ends() -> None:
    """One blob of 5 GB among thousands of small ones must not leave all other hands idle."""
    slow, done = asyncio.Event(), []

    async def work(item: int) -> None:
        if item == 0:
            await slow.wait()
        done.append(item)
        if item == 9:
            slow.set()

    await for_each(one_page(range(10)), work, limit=2)
    assert done == [*range(1, 10), 0]


async def test_never_more_than_asked_for() -> None:
    running, most = 0, 0

    async def work(item: int) -> None:
        nonlocal running, most
        del item
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await for_each(one_page(range(50)), work, limit=3)
    assert most == 3


async def test_a_failure_is_raised_as_it_is_when_nothing_is_running_any_more() -> None:
    ended = []

    async def work(item: int) -> None:
        if item == 1:
            raise LookupError("this one")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    with pytest.raises(LookupError, match="this one"):
        await for_each(one_page([0, 1, 2]), work)
    assert 0 in ended


async def test_a_listing_that_fails_is_raised_as_it_is() -> None:
    async def pages() -> AsyncIterator[list[int]]:
        yield [1]
        raise LookupError("the next page")

    async def work(item: int) -> None:
        del item

    with pytest.raises(LookupError, match="the next page"):
        await for_each(pages(), work)
