"""Bounded concurrency: many small tasks, a few at a time.

A driver may answer without giving up the event loop (small reads of the filesystem do), so thousands of tasks
started together would run in one go; with a limit other requests have a turn in between.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

__all__ = ["DEFAULT_LIMIT", "for_each", "gather_all", "map_bounded", "one_page"]

_T = TypeVar("_T")
_R = TypeVar("_R")

DEFAULT_LIMIT: Final = 16


async def map_bounded(
    items: Iterable[_T], work: Callable[[_T], Awaitable[_R]], *, limit: int = DEFAULT_LIMIT
) -> list[_R]:
    """Return the results of `work` on each item, in order; run in batches of `limit`.

    The first error of a batch is raised when the batch has ended.
    """
    waiting = list(items)
    results: list[_R] = []
    for start in range(0, len(waiting), limit):
        results += await gather_all(*(work(item) for item in waiting[start : start + limit]))
    return results


async def for_each(
    pages: AsyncIterator[Iterable[_T]], work: Callable[[_T], Awaitable[object]], *, limit: int = DEFAULT_LIMIT
) -> None:
    """Run `work` on each item of each page, `limit` at a time; the next begins as soon as one ends.

    The first error cancels the others, and is raised when they have ended.
    """
    slots = asyncio.Semaphore(limit)

    async def one(item: _T) -> None:
        try:
            await work(item)
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as tasks:
            async for page in pages:
                for item in page:
                    await slots.acquire()
                    tasks.create_task(one(item))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def one_page(items: Iterable[_T]) -> AsyncIterator[Iterable[_T]]:
    """Yield `items` as the only page; for `for_each`."""
    yield items


async def gather_all(*works: Awaitable[_R]) -> list[_R]:
    """Run all concurrently and return their results; the first error is raised when all have ended."""
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    results: list[_R] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        results.append(outcome)
    return results
