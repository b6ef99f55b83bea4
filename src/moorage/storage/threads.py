"""Where blocking system calls run, and what their errors mean to a driver's caller.

Used by `filesystem.py` and `filesystem_uploads.py`.
"""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from moorage.storage.driver import KeyMissing, StorageExhausted, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.storage.driver import StorageError

__all__ = ["Pool", "translating"]

_T = TypeVar("_T")

_LEAST_THREADS: Final = 25  # the reference raises smaller values of `maxthreads` as well
_EXHAUSTED: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_ABSENT: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


@contextmanager
def translating(key: str, missing: type[StorageError] | None = KeyMissing) -> Iterator[None]:
    """Turn the system's errors into the driver's.

    `missing` is what an absent file means here; None where one is a failure like any other.
    """
    try:
        yield
    except OSError as error:
        if missing is not None and error.errno in _ABSENT:
            raise missing(key) from error
        kind = StorageExhausted if error.errno in _EXHAUSTED else StorageUnavailable
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        raise kind(f"{key}: {error.strerror or error} ({name})") from error


class Pool:
    """Threads for what blocks.

    A caller that is cancelled waits for its thread: what a thread writes to, a lock or a descriptor, is never
    given back while the thread still uses it.
    """

    def __init__(self, max_threads: int) -> None:
        self._threads = ThreadPoolExecutor(max(_LEAST_THREADS, max_threads), "storage")

    async def run(self, work: Callable[[], _T], undo: Callable[[_T], None] | None = None) -> _T:
        """What `work` returns.  If the caller is cancelled meanwhile, `undo` gets the result that nobody will."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            await _settled(future)
            if future.exception() is None and undo is not None:
                await _settled(asyncio.get_running_loop().run_in_executor(self._threads, undo, future.result()))
            raise
        return future.result()

    def close(self) -> None:
        self._threads.shutdown(wait=True)


async def _settled(future: asyncio.Future[_T]) -> None:
    """Wait until `future` is done, through further cancellations."""
    while not future.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([future])
