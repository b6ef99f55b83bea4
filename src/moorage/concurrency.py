"""Many small jobs, few at a time: neither the store nor the other requests are kept waiting for long.

A driver may answer without ever giving up the event loop (the filesystem's small reads do), so thousands of jobs
started at once would run in one go; between two slices everybody else has a turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

__all__ = ["AT_ONCE", "for_each", "gather_all", "map_bounded", "one_page"]

_T = TypeVar("_T")
_R = TypeVar("_R")

AT_ONCE: Final = 16


async def map_bounded(
    items: Iterable[_T], work: Callable[[_T], Awaitable[_R]], *, at_once: int = AT_ONCE
) -> list[_R]:
    """The results of `work` on each item, in order."""
    waiting, found = list(items), []
    for start in range(0, len(waiting), at_once):
        found += await gather_all(*(work(item) for item in waiting[start : start + at_once]))
    return found


async def for_each(
    pages: AsyncIterator[Iterable[_T]], work: Callable[[_T], Awaitable[object]], *, at_once: int = AT_ONCE
) -> None:
    """`work` on each item of each page; the next begins as soon as one ends, so a slow one holds up no others.

    The first failure ends the rest and is raised when nothing is running any more.
    """
    turn = asyncio.Semaphore(at_once)

    async def one(item: _T) -> None:
        try:
            await work(item)
        finally:
            turn.release()

    try:
        async with asyncio.TaskGroup() as tasks:
            async for page in pages:
                for item in page:
                    await turn.acquire()
                    tasks.create_task(one(item))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def one_page(items: Iterable[_T]) -> AsyncIterator[Iterable[_T]]:
    """For `flowing`, when the items are in hand."""
    yield items


async def gather_all(*works: Awaitable[_R]) -> list[_R]:
    """All at once; the first failure is raised when none of them is running any more."""
    found = await asyncio.gather(*works, return_exceptions=True)
    done: list[_R] = []
    for result in found:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
