"""Uploads of the filesystem driver: growing files, compatible with CNCF Distribution.

    HOME/startedat              start time: UTC, RFC 3339, seconds, 20 bytes
    HOME/data                   the bytes; locked by flock(2) while a request extends or publishes them
    HOME/hashstates/ALG/OFFSET  notes: the last component is the offset they belong to
    HOME/offset.OFFSET          Moorage only: empty marker of a checkpoint without notes
    HOME/format.N               not written yet: marks another format of a later version

The offset of an upload is the greatest one in these names that `data` reaches.  Bytes past it were written by a
request that died before its checkpoint; they may be incomplete, and the next writer truncates them.  Only without
any such name the offset is the size of `data`: the reference writes `hashstates/sha256/0` at once, unless it was
built without resumable digests.

Publishing renames `data`, also over an existing object: these bytes were just verified, those were not, and a
rename costs no more than the check for existence.  Readers that have the old file open continue to
read it; of two publishers of one digest the later one wins, with the same bytes; other names of the old file
(hard links of a backup) keep it.

A checkpoint first makes the data durable and then writes the names without fsync: a name lost in a power failure
means an earlier offset, never a wrong one.  Starting an upload is not durable; if a power failure removes it, the
client starts again.

`state` and the lock run on the event loop: two to four listings of directories with at most three names take less
time than the hop to a thread (`driver.py` has the numbers).

Source: the reference's registry/storage/blobwriter_resumable.go, purgeuploads.go.
"""

from __future__ import annotations

import itertools
import os
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import (
    Key,
    Stat,
    StorageError,
    Stored,
    UploadChanged,
    UploadMissing,
    UploadState,
)
from moorage.storage.filesystem.appender import FileAppender, lock, open_locked
from moorage.storage.filesystem.durable import (
    create_empty,
    exists,
    file_status,
    is_directory,
    is_directory_entry,
    is_temporary_name,
    open_regular,
    remove_tree,
    sync_directory,
)
from moorage.storage.filesystem.errors import translating
from moorage.storage.filesystem.removal import discard_temporary
from moorage.storage.filesystem.streams import FileReader, modified
from moorage.storage.filesystem.upload_files import (
    DATA,
    OFFSET,
    STARTED,
    begun,
    found_names,
    notes_at,
    offset_reached,
    version_of,
    write_file,
)
from moorage.storage.keys import is_component
from moorage.storage.start_times import text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from moorage.storage.driver import Appender, Reader
    from moorage.storage.filesystem.durable import Directories
    from moorage.storage.filesystem.threads import ThreadPool

__all__ = ["FilesystemUploads"]

_UPLOADS: Final = "_uploads"
_STARTED_LIMIT: Final = 4096
_DIRECTORIES_AT_ONCE: Final = 1000


class FilesystemUploads:
    """See `driver.Uploads`."""

    def __init__(
        self,
        path_of: Callable[[str], str],
        pool: ThreadPool,
        directories: Directories,
        check_root: Callable[[], None],
    ) -> None:
        """`check_root` raises StorageUnavailable if the data directory was lost."""
        self._path_of = path_of
        self._pool = pool
        self._directories = directories
        self._check_root = check_root
        self._started: dict[str, datetime] = {}  # by path: it never changes

    def _missing(self, home: str) -> UploadMissing:
        self._check_root()
        return UploadMissing(home)

    async def begin(self, home: Key) -> UploadState:
        path = self._path_of(home)
        started = datetime.now(UTC).replace(microsecond=0)

        def make() -> None:
            try:
                write_file(f"{path}/{STARTED}", text_of(started))
                create_empty(f"{path}/{OFFSET}0")
                create_empty(f"{path}/{DATA}")
            except BaseException:  # a refused client knows no upload to continue, so none stays
                for name in (STARTED, f"{OFFSET}0", DATA):
                    with suppress(OSError):
                        os.unlink(f"{path}/{name}")
                raise

        with translating("begin upload", home, path, None):
            await self._pool.run(lambda: self._directories.within(path, make, settle=False))
        self._remember(path, started)
        return UploadState(0, started)

    def _remember(self, path: str, started: datetime) -> None:
        if len(self._started) >= _STARTED_LIMIT:
            self._started.clear()
        self._started[path] = started

    async def state(self, home: Key) -> UploadState:
        path = self._path_of(home)
        with translating("read upload", home, path, self._missing):
            status = os.stat(f"{path}/{DATA}")
            found = list(found_names(path))
            if (started := self._started.get(path)) is None:
                started, exact = begun(path)
                if exact:
                    self._remember(path, started)
        offset = offset_reached([at for at, _ in found], status.st_size)
        with translating("read upload", home, path, self._missing):
            return UploadState(offset, started, tuple(notes_at(path, found, offset)), version_of(status))

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        path = self._path_of(home)
        fd, names, whole = open_locked(home, path, state, self._missing)
        appender = FileAppender(self._pool, home, path, fd, state, names, self._missing)
        try:
            if not whole:
                appender.touched = True
                await self._pool.run(appender.cut)
            yield appender
        finally:
            if appender.touched:
                await self._pool.run(appender.leave)
            else:  # nothing to undo: closing a file whose bytes are on disk is no work for a thread
                appender.leave()

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        path = f"{self._path_of(home)}/{DATA}"
        with translating("read upload", home, path, self._missing):
            fd, status = open_regular(path)
        try:
            if status.st_size < state.offset:
                raise UploadChanged(f"{home}: fewer than {state.offset} bytes are left")
            yield FileReader(self._pool, fd, path, Stat(home, state.offset, state.started), 0, state.offset)
        finally:
            with translating("close upload", home, path, None):
                os.close(fd)

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        await self._pool.run(lambda: self.move(home, state, to))
        return Stored.WRITTEN

    def move(self, home: Key, state: UploadState, to: Key) -> Sequence[str]:
        """`publish`, in a thread.  Return the paths of what is left, as far as is known."""
        data, target = f"{self._path_of(home)}/{DATA}", self._path_of(to)
        directory = os.path.dirname(target)

        def move() -> None:
            try:
                os.rename(data, target)
            except FileNotFoundError as error:
                if not exists(data):
                    raise self._missing(home) from error
                raise
            sync_directory(directory)

        fd, names = lock(home, self._path_of(home), state, self._missing)
        with translating("publish", home, target, None):
            try:
                # A collector spares young objects; the last byte may have come long ago.
                os.utime(fd)
                self._directories.within(directory, move)
            finally:
                os.close(fd)
        return names

    async def discard(self, home: Key) -> None:
        if (error := await self._pool.run(lambda: self.remove(home))) is not None:
            raise error

    def remove(self, home: Key, names: Sequence[str] = ()) -> StorageError | None:
        """`discard`, in a thread; return its error.  `names` are paths that `move` returned."""
        path = self._path_of(home)
        self._started.pop(path, None)
        try:
            with translating("discard upload", home, path, None):
                _remove(path, names)
        except StorageError as error:
            return error
        return None

    async def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        path = self._path_of(under)
        homes = _homes(path, under)

        def work() -> Key | None:
            return next((home for home in homes if begun(self._path_of(home))[0] < before), None)

        while True:
            with translating("list uploads", under, path, None):
                home = await self._pool.run(work)
            if home is None:
                return
            yield home

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        path = self._path_of(under)
        pages = _temporaries(path, under, before)

        def work() -> list[Key] | None:
            page = next(pages, None)
            for key in page or () if not dry_run else ():
                with suppress(FileNotFoundError):
                    discard_temporary(self._path_of(key))
            return page

        found: list[Key] = []
        while True:
            with translating("sweep", under, path, None):
                page = await self._pool.run(work)
            if page is None:
                return found
            found += page


def _remove(path: str, names: Sequence[str]) -> None:
    # The usual files of an upload; with others the directory is removed in the general way.
    with suppress(OSError):
        for name in (f"{path}/{STARTED}", *names) if names else [f"{path}/{name}" for name in os.listdir(path)]:
            os.unlink(name)
        os.rmdir(path)
        return
    remove_tree(path)


def _homes(path: str, key: str) -> Iterator[Key]:
    """Yield every upload below a key, entering no other directory whose name a repository cannot have."""
    waiting = [(path, key)]
    while waiting:
        directory, name = waiting.pop()
        in_uploads = name.rpartition("/")[2] == _UPLOADS
        try:
            children = os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for child in children:
            if not is_component(child) or (child.startswith("_") and child != _UPLOADS):
                continue
            if not is_directory(f"{directory}/{child}"):
                continue
            if in_uploads:
                yield Key(f"{name}/{child}")
            else:
                waiting.append((f"{directory}/{child}", f"{name}/{child}"))


def _temporaries(path: str, key: str, before: datetime) -> Iterator[list[Key]]:
    """Yield temporary files of crashed writers, last written to before `before`, in pages.

    Those of an upload are removed with it, and are skipped.
    """
    waiting = [(path, key)]
    page: list[Key] = []
    for number in itertools.count(1):
        if not waiting:
            break
        directory, name = waiting.pop()
        try:
            with os.scandir(directory) as found:
                entries = [entry for entry in found if is_component(entry.name)]
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if is_directory_entry(entry):
                if entry.name != _UPLOADS:
                    waiting.append((entry.path, f"{name}/{entry.name}"))
            elif is_temporary_name(entry.name):
                status = file_status(entry)
                if status is not None and modified(status) < before:
                    page.append(Key(f"{name}/{entry.name}"))
        if number % _DIRECTORIES_AT_ONCE == 0:
            yield page
            page = []
    yield page
