"""Reads of one thing that are asked for at the same time are one read, and none is older than its question.

Whoever asks gets the result of a read that began after he asked.  Up to `at_once` reads of a key run beside one
another, each for who asked first; whoever comes while they run waits for the next, together with all who come
before it begins.  So nothing is remembered, and still a store is asked for a tag that everybody pulls only a few
times in the time that one answer of its takes, however many ask.

                    reads ═══════ 1 ═══════╗
    A asks ─► begins one                   ║
    B asks ────► waits                     ╚══► A has it; ═══════ 2 ═══════╗
    C asks ───────► waits with B                                           ╚══► B and C have it

Above: `registry/links.py`, `registry/tags.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Coalescer"]

_K = TypeVar("_K")
_R = TypeVar("_R")

_AT_ONCE: Final = 4
"""One would double the time of the second of two; more save the store nothing."""


class Coalescer(Generic[_K, _R]):
    """See the module docstring.  Of one event loop."""

    def __init__(self, *, at_once: int = _AT_ONCE) -> None:
        self._at_once = at_once
        self._running: dict[_K, int] = {}
        self._next: dict[_K, tuple[asyncio.Future[_R], Callable[[], Awaitable[_R]]]] = {}
        self._shared: set[asyncio.Task[None]] = set()

    async def read(self, key: _K, work: Callable[[], Awaitable[_R]]) -> _R:
        """The result of `work`, which reads `key`, or of that of somebody who asks for the same key; its error
        is everybody's.  One who is cancelled cancels no other.
        """
        if self._running.get(key, 0) < self._at_once:
            return await self._run(key, work)
        if (waiting := self._next.get(key)) is None:
            waiting = self._next[key] = (asyncio.get_running_loop().create_future(), work)
        return await asyncio.shield(waiting[0])

    async def _run(self, key: _K, work: Callable[[], Awaitable[_R]]) -> _R:
        self._running[key] = self._running.get(key, 0) + 1
        try:
            return await work()
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
            if (waiting := self._next.pop(key, None)) is not None:
                self._begin(key, *waiting)

    def _begin(self, key: _K, result: asyncio.Future[_R], work: Callable[[], Awaitable[_R]]) -> None:
        async def share() -> None:
            try:
                result.set_result(await self._run(key, work))
            except asyncio.CancelledError:
                result.cancel()
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, it is for those who wait
                result.set_exception(error)
                result.exception()  # perhaps nobody waits any more; that is no news for the log

        # Of nobody's request: neither its trace nor its log lines.
        task = asyncio.get_running_loop().create_task(share(), context=contextvars.Context())
        self._shared.add(task)
        task.add_done_callback(self._shared.discard)
