"""Reader and writer of one open file; a writer has a temporary name until it is committed.

Used by `driver.py` and `uploads.py`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import StorageUnavailable, Stored
from moorage.storage.filesystem.durable import create_file, sync, sync_directory, temporary_beside, write_at
from moorage.storage.filesystem.errors import translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Key, Stat
    from moorage.storage.filesystem.durable import Directories
    from moorage.storage.filesystem.threads import ThreadPool

__all__ = ["FileReader", "FileWriter", "modified"]

_PIECE_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 64 << 10


def modified(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


class FileReader:
    """See `driver.Reader`: bytes [start, stop) of an open file, which its maker closes.  `path` is for the log."""

    def __init__(self, pool: ThreadPool, fd: int, path: str, stat: Stat, start: int, stop: int) -> None:
        self._pool = pool
        self._fd = fd
        self._path = path
        self._start = start
        self._stop = stop
        self.stat = stat

    async def __aiter__(self) -> AsyncIterator[bytes]:
        position = self._start
        while (size := min(_PIECE_BYTES, self._stop - position)) > 0:
            with translating("read", self.stat.key, self._path, None):
                if size <= _SMALL_BYTES:  # on the event loop, as `driver.py` reads small files
                    piece = os.pread(self._fd, size, position)
                else:
                    piece = await self._pool.run(lambda: os.pread(self._fd, size, position))  # noqa: B023  awaited
            if not piece:
                raise StorageUnavailable(f"read {self._path}: it ends {self._stop - position} bytes early")
            position += len(piece)
            yield piece


class FileWriter:
    """See `driver.Writer`: a temporary file beside its final name."""

    def __init__(self, pool: ThreadPool, directories: Directories, key: Key, path: str) -> None:
        self._pool = pool
        self._directories = directories
        self._key = key
        self._path = path
        self._temporary = temporary_beside(path)
        self._made: list[str] = []
        self._size = 0
        self._fd = directories.within(
            os.path.dirname(path), lambda: create_file(self._temporary), settle=False, made=self._made
        )

    async def write(self, chunks: Sequence[bytes]) -> None:
        with translating("write", self._key, self._temporary, None):
            self._size = await self._pool.run(lambda: write_at(self._fd, chunks, self._size))

    async def commit(self) -> Stored:
        directory = os.path.dirname(self._path)

        def work() -> None:
            sync(self._fd, self._temporary)
            self._directories.within(directory, put)
            self._made = []

        def put() -> None:
            os.rename(self._temporary, self._path)
            sync_directory(directory)

        with translating("commit", self._key, self._path, None):
            await self._pool.run(work)
        return Stored.WRITTEN

    def abandon(self) -> None:
        """Close, and remove what was not committed."""
        try:
            os.close(self._fd)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary)
            self._directories.remove(self._made)
