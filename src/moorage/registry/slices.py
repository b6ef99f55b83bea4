"""Many small jobs, few at a time: neither the store nor the other requests are kept waiting for long.

A driver may answer without ever giving up the event loop (the filesystem's small reads do), so thousands of jobs
started at once would run in one go; between two slices everybody else has a turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["AT_ONCE", "each", "together"]

_T = TypeVar("_T")
_R = TypeVar("_R")

AT_ONCE: Final = 16


async def each(items: Iterable[_T], work: Callable[[_T], Awaitable[_R]], *, at_once: int = AT_ONCE) -> list[_R]:
    """The results of `work` on each item, in order."""
    waiting, found = list(items), []
    for start in range(0, len(waiting), at_once):
        found += await together(*(work(item) for item in waiting[start : start + at_once]))
    return found


async def together(*works: Awaitable[_R]) -> list[_R]:
    """All at once; the first failure is raised when none of them is running any more."""
    found = await asyncio.gather(*works, return_exceptions=True)
    done: list[_R] = []
    for result in found:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
