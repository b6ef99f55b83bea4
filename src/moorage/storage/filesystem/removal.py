"""Removal of a file on the condition that it is still the one that was examined.

POSIX has no unlink(2) with a condition, and a lock that other hosts observe cannot be assumed.  So the file is
renamed aside, examined there, where no writer replaces it, and removed or put back:

    data ──rename──► data.removed.UUID.tmp ──same file──► unlink
                                           └─another one─► link to `data`, unless a writer has made one; unlink

A writer that stored the other file a moment ago finds it missing while it is aside, for microseconds, and again
after a crash in between.  Its name is that of a temporary file, which listings omit; `recover` restores it.

Used by `driver.py` and `uploads.py`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.storage.filesystem.durable import (
    exists,
    is_temporary_name,
    move_unless_there,
    sync_directory,
    temporary_beside,
)
from moorage.storage.filesystem.streams import modified

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.storage.driver import Stat

__all__ = [
    "FEW",
    "Unlinked",
    "delete_few",
    "discard_temporary",
    "recover",
    "remove_if_unchanged",
    "remove_leftovers",
    "sync_remaining",
    "unlink_all",
]

FEW: Final = 2
"""Files of one request, which are removed in one go (`delete_few`); a collector removes many."""

_ASIDE: Final = re.compile(r"(?P<name>.+)\.removed\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp", re.ASCII)
_KEPT: Final = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY}
"""A directory that is not empty, is gone, is an operator's link to another one, or is mounted."""


def remove_if_unchanged(path: str, known: Stat) -> bool:
    """Remove the file of `known`, and its directory if that is empty; return False if it is another one, which
    stays.  A missing one is fine.

    Not synced: after a power cut the file may be back.
    """
    try:
        before = os.stat(path)
        if not stat.S_ISREG(before.st_mode):
            return True
        if (before.st_size, modified(before)) != (known.size, known.modified):
            return False
        aside = temporary_beside(f"{path}.removed")
        os.rename(path, aside)
    except (FileNotFoundError, NotADirectoryError):
        return True
    found = os.stat(aside)
    if _identity(found) != _identity(before):
        recover(aside)
        return False
    os.unlink(aside)
    with suppress(OSError):  # usually empty; and an empty directory does no harm
        os.rmdir(os.path.dirname(path))
    return True


class Unlinked(NamedTuple):
    """Result of `unlink_all`: directories that an entry was removed from, and files that could not be removed."""

    changed: set[str]
    failed: dict[str, OSError]


def delete_few(paths: Sequence[str], root: str) -> None:
    """Unlink files, durably, and each directory that is left empty, never one above it.

    A missing file may have been removed a moment ago by another process that has not fsynced yet.
    """
    directories: dict[str, bool] = {}
    for path in paths:
        directory = os.path.dirname(path)
        removed = directories.setdefault(directory, False)
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            os.unlink(path)
            removed = True
        directories[directory] = removed
    for directory, removed in directories.items():
        with suppress(FileNotFoundError, NotADirectoryError):
            sync_directory(directory)
        if removed and directory != root:
            with suppress(OSError):  # usually not empty; and an empty directory does no harm
                os.rmdir(directory)


def unlink_all(paths: Sequence[str], root: str) -> Unlinked:
    """Unlink files, and each directory that is left empty, none above it; not durable before `sync_remaining`.

    A missing file costs nothing more: unlike `delete_few`, this leaves the removal that another process has not
    fsynced yet to that process.
    """
    emptied: dict[str, None] = {}
    failed: dict[str, OSError] = {}
    for path in paths:
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            failed[path] = error
            continue
        emptied[os.path.dirname(path)] = None
    changed: set[str] = set()
    for directory in emptied:
        changed.add(directory)
        if directory != root:
            with suppress(OSError):  # not empty; and an empty directory does no harm
                os.rmdir(directory)
                changed.remove(directory)
                changed.add(os.path.dirname(directory))
    return Unlinked(changed, failed)


def sync_remaining(directories: Iterable[str], root: str) -> None:
    """Fsync each directory once; instead of one that is gone, the nearest that is left above it."""
    for directory in directories:
        path = directory
        while True:
            try:
                sync_directory(path)
                break
            except (FileNotFoundError, NotADirectoryError):
                if path == root:
                    raise
                path = os.path.dirname(path)


def remove_leftovers(path: str, before: float) -> None:
    """Remove temporary files last written before `before` (seconds since the epoch), and empty directories, at and
    below `path`; restore files whose removal was interrupted.  A writer whose directory vanishes makes it again
    (`Directories.within`).
    """
    for directory, _, names in os.walk(path, topdown=False):
        for name in filter(is_temporary_name, names):
            with suppress(FileNotFoundError):
                if os.stat(f"{directory}/{name}").st_mtime < before:
                    discard_temporary(f"{directory}/{name}")
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno not in _KEPT:
                raise


def discard_temporary(path: str) -> None:
    """Remove the temporary file of a writer that crashed; restore one whose removal was interrupted."""
    if _ASIDE.fullmatch(path.rpartition("/")[2]) is None:
        os.unlink(path)
    else:
        recover(path)


def recover(aside: str) -> None:
    """Restore a file that was being removed, durably; remove it if another one has its name by now."""
    directory, _, name = aside.rpartition("/")
    match = _ASIDE.fullmatch(name)
    if match is None:
        return
    path = f"{directory}/{match['name']}"
    with suppress(FileNotFoundError):  # its remover, or another process, has done this
        try:
            if not exists(path):
                move_unless_there(aside, path)
        except FileExistsError:
            pass
        with suppress(FileNotFoundError):
            os.unlink(aside)
        sync_directory(directory)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    # Not the time of change, which the rename has set.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
