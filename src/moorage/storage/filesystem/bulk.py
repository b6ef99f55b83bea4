"""Operations on many files and directories in one hop to a thread.

The fingerprint of a directory is its device, inode and time of change.  A change within one tick of the file
system's clock (4 ms on ext4, 2 s on FAT) leaves the time as it is, so a directory that changed within the last
`SETTLED_NS` has none (git's index calls such an entry racily clean).

Above: `driver.py`.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final, TypeVar

from moorage.storage.driver import Key, KeyMissing, ObjectTooLarge, Stat
from moorage.storage.filesystem.errors import ABSENT_ERRORS, storage_error
from moorage.storage.keys import check_keys, components

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.storage.filesystem.threads import ThreadPool

__all__ = ["FilesystemBulk"]

_T = TypeVar("_T")

SETTLED_NS: Final = 2_500_000_000
_PATH_ONLY: Final = getattr(os, "O_PATH", os.O_RDONLY)
"""A directory need not be readable for what is below it."""
_PIECE: Final = 2_000
"""Keys of one job: 10 to 50 ms, after which a cancelled caller continues."""


class FilesystemBulk:
    """See `driver.Bulk`.

    `check` raises StorageUnavailable if the data directory is gone: without it, everything in a file system that
    is no longer mounted would be missing.  `read` reads one file.
    """

    def __init__(
        self,
        root: str,
        pool: ThreadPool,
        check: Callable[[], None],
        read: Callable[[str, str, int], bytes],
        is_temporary: Callable[[str, str], bool],
    ) -> None:
        self._root = root
        self._pool = pool
        self._check = check
        self._read = read
        self._is_temporary = is_temporary

    async def fingerprints(self, prefixes: Sequence[Key]) -> Sequence[str | None]:
        def one(key: Key, start: int, home: int) -> str | None:
            status = os.stat(key[start:], dir_fd=home)
            changed = status.st_ctime_ns
            if changed > settled or not stat.S_ISDIR(status.st_mode):
                return None
            return f"{status.st_dev}.{status.st_ino}.{changed}"

        settled = time.time_ns() - SETTLED_NS
        return await self._each_below("stat", prefixes, one, "")

    async def names(self, prefixes: Sequence[Key]) -> Sequence[Sequence[str]]:
        def one(path: str) -> Sequence[str]:
            found = components(os.listdir(path))
            if any(name.endswith(".tmp") for name in found):
                return [name for name in found if not self._is_temporary(path, name)]
            return found

        return await self._each("list", prefixes, one, ())

    async def read(self, keys: Sequence[Key], *, limit: int) -> Sequence[bytes | None]:
        def one(path: str) -> bytes | None:
            try:
                return self._read(path, path, limit)
            except (KeyMissing, ObjectTooLarge):
                return None

        return await self._each("read", keys, one, None)

    async def find(self, keys: Sequence[Key]) -> Sequence[Stat | None]:
        def one(key: Key, start: int, home: int) -> Stat | None:
            status = os.stat(key[start:], dir_fd=home)
            if not stat.S_ISREG(status.st_mode):
                return None
            return Stat(key, status.st_size, status.st_mtime)

        return await self._each_below("stat", keys, one, None)

    async def _each_below(
        self, operation: str, keys: Sequence[Key], one: Callable[[Key, int, int], _T], missing: _T
    ) -> Sequence[_T]:
        """Do what `_each` does, with paths below the directory that all keys of a piece have in common: a third of
        what `stat` costs is the way to it.
        """
        check_keys(keys)
        root = self._root

        def work(piece: Sequence[Key]) -> list[_T]:
            self._check()
            found: list[_T] = []
            start = _common_directory(piece)
            shared = f"{root}/{piece[0][:start]}"
            try:
                home = os.open(shared, _PATH_ONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno not in ABSENT_ERRORS:
                    raise storage_error(error, operation, shared) from error
                self._check()
                return [missing] * len(piece)
            absent = False
            try:
                for key in piece:
                    try:
                        found.append(one(key, start, home))
                    except OSError as error:
                        if error.errno not in ABSENT_ERRORS:
                            raise storage_error(error, operation, f"{root}/{key}") from error
                        absent = True
                        found.append(missing)
            finally:
                os.close(home)
            if absent:
                self._check()
            return found

        return await self._in_pieces(keys, work)

    async def _each(
        self, operation: str, keys: Sequence[Key], one: Callable[[str], _T], missing: _T
    ) -> Sequence[_T]:
        check_keys(keys)
        root = self._root

        def work(piece: Sequence[Key]) -> list[_T]:
            self._check()  # so that it is known, and seen to be another one afterwards
            found: list[_T] = []
            absent = False
            for key in piece:
                path = f"{root}/{key}"
                try:
                    found.append(one(path))
                except OSError as error:
                    if error.errno not in ABSENT_ERRORS:
                        raise storage_error(error, operation, path) from error
                    absent = True
                    found.append(missing)
            if absent:
                self._check()
            return found

        return await self._in_pieces(keys, work)

    async def _in_pieces(self, keys: Sequence[Key], work: Callable[[Sequence[Key]], list[_T]]) -> Sequence[_T]:
        results: list[_T] = []
        for start in range(0, len(keys), _PIECE):
            piece = keys[start : start + _PIECE]
            results += await self._pool.run(lambda piece=piece: work(piece))  # type: ignore[misc]
        return results


def _common_directory(keys: Sequence[str]) -> int:
    """Return the length of the directory, with its slash, that all keys are below."""
    first, last = min(keys), max(keys)
    length = 0
    for own, other in zip(first, last, strict=False):
        if own != other:
            break
        length += 1
    return first.rfind("/", 0, length) + 1
