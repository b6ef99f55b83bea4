"""Ordered writes of small files: each group is visible and durable before the next.  One call in one thread.

    all temporary files, written ─► fsync each ─► rename a group ─► fsync its directories ─► rename the next ...
                                                                    └ with the first group: the parents of new ones

An fsync makes a journalling file system commit everything before it, so consecutive fsyncs without a rename
between them cost one commit together; a directory that holds several of the files is fsynced once.

Above: `driver.py`.  Below: `durable.py`.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from moorage.storage.driver import ABSENT, Conflict, Unchanged
from moorage.storage.filesystem.durable import (
    create_file,
    exists,
    move_unless_there,
    start_writeback,
    sync,
    temporary_beside,
    write_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from moorage.storage.driver import Version, Write
    from moorage.storage.filesystem.durable import Directories

__all__ = ["OrderedWrites", "give_name"]


@dataclass(slots=True)
class _PendingFile:
    """One file to write; `temporary` is "" after its rename."""

    write: Write
    path: str
    directory: str
    temporary: str = ""


@dataclass(slots=True)
class OrderedWrites:
    """Context manager: on entry all files are written and synced under temporary names; none is visible.

    On exit, temporary files without a rename are removed, and directories that were created for them.
    `current` returns the version of the object at a path, None if there is none; `write_one` writes one object
    durably by itself, as `Driver.write` does.
    """

    directories: Directories
    path_of: Callable[[str], str]
    current: Callable[[str], Version | None]
    write_one: Callable[[Write], None]
    groups: Sequence[Sequence[Write]]
    _files: list[list[_PendingFile]] = field(default_factory=list)
    _made: list[str] = field(default_factory=list)
    _settled: bool = False

    def __enter__(self) -> Self:
        for group in self.groups:
            paths = [self.path_of(write.key) for write in group]
            self._files.append(
                [
                    _PendingFile(write, path, os.path.dirname(path))
                    for write, path in zip(group, paths, strict=True)
                ]
            )
        try:
            self._prepare([file for group in self._files for file in group])
        except BaseException:
            self._clean()
            raise
        return self

    def _prepare(self, files: Sequence[_PendingFile]) -> None:
        opened: list[int] = []
        try:
            for file in files:
                temporary = temporary_beside(file.path)
                create = partial(create_file, temporary)
                fd = self.directories.within(file.directory, create, settle=False, made=self._made)
                opened.append(fd)
                file.temporary = temporary
                write_at(fd, (file.write.data,), 0)
            if len(opened) > 1:
                for fd in opened:
                    start_writeback(fd, 0, 0)
            for fd, file in zip(opened, files, strict=True):
                sync(fd, file.temporary)
        finally:
            for fd in opened:
                os.close(fd)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def _clean(self) -> None:
        failed = False
        for group in self._files:
            for file in group:
                if file.temporary:
                    failed = True
                    with suppress(OSError):
                        os.unlink(file.temporary)
        if failed:
            self.directories.remove(self._made)

    def run(self) -> None:
        """Rename all groups, in order.  Raises Conflict."""
        for number in range(len(self._files)):
            self.rename_group(number)

    def rename_group(self, number: int) -> None:
        """Rename the files of a group, durably."""
        opened: dict[str, int] = {}
        try:
            for file in self._files[number]:
                self._place(file, opened)
            for directory, fd in opened.items():
                sync(fd, directory)
        finally:
            for fd in opened.values():
                os.close(fd)
        self.settle()

    def settle(self) -> None:
        """Sync the parents of all new directories, those of later groups included; once."""
        if not self._settled:
            self.directories.settle({file.directory for group in self._files for file in group})
            self._settled = True

    def _place(self, file: _PendingFile, opened: dict[str, int]) -> None:
        try:
            if file.directory not in opened:
                opened[file.directory] = os.open(file.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fd = opened[file.directory]
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                give_name(file.write, file.temporary, file.path, self.current, self.path_of)
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
        except FileNotFoundError:  # a concurrent deletion has removed the directory with the temporary file
            self.directories.forget(file.directory)
            self.write_one(file.write)
        file.temporary = ""


def give_name(
    write: Write,
    temporary: str,
    path: str,
    current: Callable[[str], Version | None],
    path_of: Callable[[str], str],
) -> None:
    """Rename a temporary file to its object's path if the conditions of `write` hold; else raise Conflict.

    The caller holds the lock of the directory (`durable.changing`) and syncs it.
    """
    if write.unless is not None and exists(path_of(write.unless)):
        raise Conflict(f"{write.key}: {write.unless} exists")
    if write.when is ABSENT:
        try:
            move_unless_there(temporary, path)
        except FileExistsError as error:
            raise Conflict(f"{write.key}: it exists") from error
    elif isinstance(write.when, Unchanged) and current(path) != write.when.version:
        raise Conflict(f"{write.key}: it has changed")
    else:
        os.rename(temporary, path)
