"""Thread pool for blocking system calls.  Used by `driver.py` and `uploads.py`."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from moorage.shielding import wait_settled
from moorage.storage.driver import StorageUnavailable
from moorage.system_errors import no_thread_error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadPool"]

_T = TypeVar("_T")

_LEAST_THREADS: Final = 25  # the reference raises smaller values of `maxthreads` as well


class _Job(Generic[_T]):
    """One call and the futures of its result.

    `future` is cancelled with the caller; `ended` is not, and a cancelled caller waits for it.
    """

    __slots__ = ("ended", "future", "work")

    def __init__(self, work: Callable[[], _T], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.future: asyncio.Future[_T] = loop.create_future()
        self.ended: asyncio.Future[_T] | None = None

    def settle(self, result: _T | None, error: BaseException | None) -> None:
        """Set the result; called on the event loop, once."""
        future = self.future
        if future.cancelled():
            future = self.ended = self.ended or future.get_loop().create_future()
        if error is None:
            future.set_result(cast("_T", result))
        else:
            future.set_exception(error)


class _SharedWork:
    """Work for any free thread; the thread that needs its result does it itself if no other has begun.

    So no thread waits for work that is still queued, however few threads there are (no deadlock).
    """

    __slots__ = ("_begun", "_ended", "_error", "_work")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._begun = threading.Lock()
        self._ended = threading.Lock()
        self._ended.acquire()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work, unless another thread has begun it."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  `finish` raises it
            self._error = error
        finally:
            self._ended.release()

    def finish(self) -> None:
        """Do the work or wait for its end; raise its exception."""
        self.run()
        self._ended.acquire()
        if self._error is not None:
            raise self._error


class ThreadPool:
    """Pool of at most `max_threads` threads for blocking calls.  `processors`: the number this process may use.

    A cancelled caller waits for its thread: a lock or descriptor is never released while a thread uses it.

    `loop.run_in_executor` costs about twice the CPU of this (two futures, each with a lock and callbacks): with
    ten calls for a small blob that was a fifth of a push.
    """

    def __init__(self, max_threads: int, processors: int = 1) -> None:
        self._most = max(_LEAST_THREADS, max_threads)
        self._processors = processors
        self._jobs: SimpleQueue[_Job[Any] | _SharedWork | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._running = 0  # jobs submitted and not settled; used by the event loop only

    async def run(self, work: Callable[[], _T], undo: Callable[[_T], None] | None = None) -> _T:
        """Return the result of `work`.  If the caller is cancelled meanwhile, `undo` is called with the result."""
        loop = asyncio.get_running_loop()
        job = _Job(work, loop)
        self._running += 1
        try:
            self._submit(job)
            return await job.future
        except asyncio.CancelledError:
            ended = job.future
            if ended.cancelled():  # else the work ended in the same loop iteration as the cancellation
                job.ended = ended = job.ended or loop.create_future()
            await wait_settled(ended)
            if ended.exception() is None and undo is not None:
                rest = _Job(lambda: undo(ended.result()), loop)
                self._submit(rest)
                await wait_settled(rest.future)
            raise
        finally:
            self._running -= 1

    async def run_both(self, work: Callable[[], _T], other: Callable[[], object]) -> _T:
        """Return the result of `work` once `other` has ended too; both run in parallel if a thread is free."""
        shared = _SharedWork(other)

        def both() -> _T:
            try:
                result = work()
            except BaseException:
                with suppress(Exception):
                    shared.finish()
                raise
            shared.finish()
            return result

        self._running += 1
        try:
            self._submit(shared)
            return await self.run(both)
        finally:
            self._running -= 1

    @property
    def has_idle_processor(self) -> bool:
        """Return whether a processor is idle, besides those of running jobs and of the event loop."""
        return self._running + 1 < self._processors

    @property
    def threads(self) -> int:
        return len(self._threads)

    @property
    def waiting(self) -> int:
        """Number of queued jobs."""
        return self._jobs.qsize()

    def _submit(self, job: _Job[Any] | _SharedWork) -> None:
        if self._running > len(self._threads) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name="storage", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the limit of processes (ulimit -u, pids.max) is reached
                if not self._threads:
                    raise StorageUnavailable(str(no_thread_error())) from error
            else:
                self._threads.append(thread)
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _SharedWork):
                job.run()
                del job
                continue
            result, error = None, None
            try:
                result = job.work()
            except BaseException as caught:  # noqa: BLE001  raised again where the result is awaited
                error = caught
            with suppress(RuntimeError):  # the loop is closed: the result is not awaited
                job.future.get_loop().call_soon_threadsafe(job.settle, result, error)
            del job, result, error

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
