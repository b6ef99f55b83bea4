"""One open file: read in pieces, or written under a temporary name until it is committed.

Used by `filesystem.py` and `filesystem_uploads.py`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import StorageUnavailable
from moorage.storage.durable import place, sync_directory, temporary_beside, write_at
from moorage.storage.threads import translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Key, Stat
    from moorage.storage.durable import Directories
    from moorage.storage.threads import Pool

__all__ = ["FileReader", "FileWriter", "modified"]

_PIECE_BYTES: Final = 1 << 20
_SMALL_BYTES: Final = 64 << 10


def modified(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


class FileReader:
    """See `driver.Reader`: bytes [start, stop) of an open file, which its maker closes."""

    def __init__(self, pool: Pool, fd: int, stat: Stat, start: int, stop: int) -> None:
        self._pool, self._fd, self._start, self._stop = pool, fd, start, stop
        self.stat = stat

    async def __aiter__(self) -> AsyncIterator[bytes]:
        position = self._start
        while (wanted := min(_PIECE_BYTES, self._stop - position)) > 0:
            with translating(self.stat.key, None):
                if wanted <= _SMALL_BYTES:  # on the event loop, as `filesystem.py` reads small files
                    piece = os.pread(self._fd, wanted, position)
                else:
                    piece = await self._pool.run(lambda: os.pread(self._fd, wanted, position))  # noqa: B023  awaited
            if not piece:
                raise StorageUnavailable(f"{self.stat.key}: it ends {self._stop - position} bytes early")
            position += len(piece)
            yield piece


class FileWriter:
    """See `driver.Writer`: a temporary file beside its final name."""

    def __init__(self, pool: Pool, directories: Directories, key: Key, path: str) -> None:
        self._pool, self._directories, self._key, self._path = pool, directories, key, path
        self._temporary = temporary_beside(path)
        self._fd = directories.within(os.path.dirname(path), self._open, settle=False)
        self._size = 0

    def _open(self) -> int:
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    async def write(self, chunks: Sequence[bytes]) -> None:
        with translating(self._key, None):
            self._size = await self._pool.run(lambda: write_at(self._fd, chunks, self._size))

    async def commit(self) -> None:
        directory = os.path.dirname(self._path)

        def work() -> None:
            os.fsync(self._fd)
            self._directories.within(directory, put)

        def put() -> None:
            place(self._temporary, self._path, self._size)
            # Also for an object that was there: whoever put it there may not have come this far yet.
            sync_directory(directory)

        with translating(self._key, None):
            await self._pool.run(work)

    def abandon(self) -> None:
        """Close, and remove what was not committed."""
        os.close(self._fd)
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)
