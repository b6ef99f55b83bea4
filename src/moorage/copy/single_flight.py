"""The same work, asked for twice at the same time, is done once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Shared"]

_K = TypeVar("_K")
_V = TypeVar("_V")


class Shared(Generic[_K, _V]):
    """Running work by key.  Whoever waits may be cancelled without ending the work; `close` ends all of it."""

    def __init__(self) -> None:
        self._running: dict[_K, asyncio.Task[_V]] = {}

    async def run(self, key: _K, work: Callable[[], Coroutine[Any, Any, _V]]) -> _V:
        """The result of `work`, or of the one that is running for `key` already."""
        running = self._running.get(key)
        if running is None:
            running = asyncio.create_task(work())
            self._running[key] = running
            running.add_done_callback(lambda task: self._ended(key, task))
        return await asyncio.shield(running)

    def _ended(self, key: _K, task: asyncio.Task[_V]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # asyncio would complain of one that nobody waits for any more

    async def close(self) -> None:
        waiting = list(self._running.values())
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
