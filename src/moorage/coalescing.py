"""Request coalescing: concurrent callers with the same key share one piece of work.

    SingleFlight    a caller joins work that is already running for its key
    Coalescer       a caller only gets the result of a read that began after its call

`SingleFlight` is for work whose result is the same whenever it began (a transfer, a check of a password).

`Coalescer` is for reads of what may change meanwhile.  Up to `limit` reads of a key run in parallel, each for its
own caller; callers that come while they run wait for the next read, together with all that come before it begins.
So nothing is cached, and a store still gets only a few requests per round trip for a popular tag, however many
clients pull it.

                     reads ═══════ 1 ═══════╗
    A calls ─► begins one                   ║
    B calls ────► waits                     ╚══► A has it; ═══════ 2 ═══════╗
    C calls ───────► waits with B                                           ╚══► B and C have it

Used by `registry/links.py`, `registry/tags.py`, `copy/`, `auth/`.  Both are of one event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["Coalescer", "SingleFlight"]

_K = TypeVar("_K")
_R = TypeVar("_R")

_LIMIT: Final = 4
"""With 1 the second of two callers would wait twice as long; more than a few save the store nothing."""


class SingleFlight(Generic[_K, _R]):
    """Running work by key.  A caller that is cancelled does not end the work; `close` cancels all of it."""

    def __init__(self, name: str | None = None) -> None:
        """`name` is that of the tasks."""
        self._name = name
        self._running: dict[_K, asyncio.Task[_R]] = {}

    async def run(self, key: _K, work: Callable[[], Coroutine[Any, Any, _R]]) -> _R:
        """Return the result of `work`, or of the work that is already running for `key`; raise its error."""
        running = self._running.get(key)
        if running is None:
            running = asyncio.create_task(work(), name=self._name)
            self._running[key] = running
            running.add_done_callback(lambda task: self._ended(key, task))
        return await asyncio.shield(running)

    def _ended(self, key: _K, task: asyncio.Task[_R]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # asyncio would log it if all callers were cancelled

    def __contains__(self, key: object) -> bool:
        """Return whether work for `key` is running."""
        return key in self._running

    def __len__(self) -> int:
        """Return the number of keys with running work."""
        return len(self._running)

    async def close(self) -> None:
        """Cancel all work, and wait for its end."""
        waiting = list(self._running.values())
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)


class Coalescer(Generic[_K, _R]):
    """Reads by key; see the module docstring."""

    def __init__(self, *, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._running: dict[_K, int] = {}
        self._next: dict[_K, tuple[asyncio.Future[_R], Callable[[], Awaitable[_R]]]] = {}
        self._shared: set[asyncio.Task[None]] = set()

    async def read(self, key: _K, work: Callable[[], Awaitable[_R]]) -> _R:
        """Return the result of `work`, which reads `key`, or of another caller's for the same key.

        An error is raised to all callers that share the read.  A caller that is cancelled cancels no other.
        """
        running = self._running.get(key, 0)
        if running < self._limit:
            self._running[key] = running + 1
            try:
                return await work()
            finally:
                self._ended(key)
        waiting = self._next.get(key)
        if waiting is None:
            waiting = self._next[key] = (asyncio.get_running_loop().create_future(), work)
        return await asyncio.shield(waiting[0])

    def _ended(self, key: _K) -> None:
        """Count a read that has ended, and begin the next one."""
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        waiting = self._next.pop(key, None)
        if waiting is not None:
            self._begin(key, *waiting)

    def _begin(self, key: _K, result: asyncio.Future[_R], work: Callable[[], Awaitable[_R]]) -> None:
        async def share() -> None:
            self._running[key] = self._running.get(key, 0) + 1
            try:
                result.set_result(await work())
            except asyncio.CancelledError:
                result.cancel()
                raise
            except Exception as error:  # noqa: BLE001  raised to the callers that wait
                result.set_exception(error)
                result.exception()  # asyncio would log it if all callers were cancelled
            finally:
                self._ended(key)

        # A context of its own: the read belongs to no single request, nor do its trace and log lines.
        task = asyncio.get_running_loop().create_task(share(), context=contextvars.Context())
        self._shared.add(task)
        task.add_done_callback(self._shared.discard)
