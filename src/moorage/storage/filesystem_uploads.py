"""Uploads as growing files, interchangeable with CNCF Distribution's.

    HOME/startedat              when it began: UTC, RFC 3339, seconds, 20 bytes
    HOME/data                   the bytes; flock(2)ed by whoever extends or publishes them
    HOME/hashstates/ALG/OFFSET  notes: the last component is the offset they belong to
    HOME/offset.OFFSET          ours: empty; what a checkpoint leaves that has no notes
    HOME/format.N               not written yet: a later version's mark that this form of an upload is not its own

An upload stands at the greatest offset that one of the names tells and `data` reaches.  Bytes past it were
written by a request that died before its checkpoint; nobody knows whether they are whole, and the next writer
cuts them off.  Only an upload that has no such name at all stands at the size of `data`: the reference writes
`hashstates/sha256/0` at once, unless it was built without resumable digests.

Publishing renames `data`, also over an object that is there: these bytes were proven a moment ago, those never,
and a rename costs no more than the check that would keep them.  Readers that have the old file open continue to
read it; of two publishers of one digest the later one wins, with the same bytes; other names of the old file
(hard links of a backup) keep it.

A checkpoint makes the data durable first and then writes the names without fsync: one that is lost in a power
cut means an earlier offset, never a wrong one.  Starting an upload is not durable at all; a client whose upload
a power cut took away starts again.

`state` runs on the event loop: two to four listings of directories with at most three names take less time than
the hop to a thread (`filesystem.py` has the numbers).

Source: the reference's registry/storage/blobwriter_resumable.go, purgeuploads.go.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import (
    Key,
    Note,
    Stat,
    StorageUnavailable,
    UploadBusy,
    UploadChanged,
    UploadMissing,
    UploadState,
)
from moorage.storage.durable import (
    DIRECTORY_MODE,
    FILE_MODE,
    exists,
    file_status,
    is_directory,
    is_directory_entry,
    is_temporary_name,
    open_regular,
    remove_tree,
    start_writeback,
    sync_data,
    sync_directory,
    temporary_beside,
    write_at,
)
from moorage.storage.files import FileReader, modified
from moorage.storage.keys import is_component
from moorage.storage.started import started_at, text_of
from moorage.storage.threads import translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from moorage.storage.driver import Appender, Reader
    from moorage.storage.durable import Directories
    from moorage.storage.threads import Pool

__all__ = ["FilesystemUploads"]

_STARTED: Final = "startedat"
_DATA: Final = "data"
_NOTES: Final = "hashstates"
_OFFSET: Final = "offset."
_FORMAT: Final = "format."
_KNOWN_FORMAT: Final = f"{_FORMAT}1"
"""What the files drawn above are, and what an upload without such a name is.  docs/formats.md has the rule."""
_UPLOADS: Final = "_uploads"
_DIRECTORIES_AT_ONCE: Final = 1000
_WRITEBACK_BYTES: Final = 8 << 20
"""After this many bytes the disk begins to write: left to the kernel it would wait for the fsync, up to 30 s."""
_BESIDE_BYTES: Final = 256 << 10
"""From here on hashing takes longer than handing it to another thread."""


class FilesystemUploads:
    """See `driver.Uploads`."""

    def __init__(
        self, path_of: Callable[[str], str], pool: Pool, directories: Directories, check_root: Callable[[], None]
    ) -> None:
        """`check_root` raises StorageUnavailable if the data directory was lost."""
        self._path_of, self._pool, self._directories, self._check_root = path_of, pool, directories, check_root

    def _missing(self, home: str) -> UploadMissing:
        self._check_root()
        return UploadMissing(home)

    async def begin(self, home: Key) -> UploadState:
        path = self._path_of(home)
        started = datetime.now(UTC).replace(microsecond=0)

        def make() -> None:
            try:
                _write(f"{path}/{_STARTED}", text_of(started))
                _write(f"{path}/{_OFFSET}0", b"")
                _write(f"{path}/{_DATA}", b"")
            except BaseException:  # a refused client knows no upload to continue, so none stays
                for name in (_STARTED, f"{_OFFSET}0", _DATA):
                    with suppress(OSError):
                        os.unlink(f"{path}/{name}")
                raise

        with translating("begin upload", home, path, None):
            await self._pool.run(lambda: self._directories.within(path, make, settle=False))
        return UploadState(0, started)

    async def state(self, home: Key) -> UploadState:
        path = self._path_of(home)
        with translating("read upload", home, path, self._missing):
            return _state(path)

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        path = self._path_of(home)

        def enter() -> FileAppender:
            fd = _lock(home, path, state, self._missing)
            return FileAppender(self._pool, home, path, fd, state, self._missing)

        appender = await self._pool.run(enter, FileAppender.leave)
        try:
            yield appender
        finally:
            if appender.touched:
                await self._pool.run(appender.leave)
            else:  # nothing to undo: closing a file whose bytes are on disk is no work for a thread
                appender.leave()

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        path = f"{self._path_of(home)}/{_DATA}"
        with translating("read upload", home, path, self._missing):
            fd, status = open_regular(path)
        try:
            if status.st_size < state.offset:
                raise UploadChanged(f"{home}: fewer than {state.offset} bytes are left")
            yield FileReader(self._pool, fd, path, Stat(home, state.offset, state.started), 0, state.offset)
        finally:
            with translating("close upload", home, path, None):
                os.close(fd)

    async def publish(self, home: Key, state: UploadState, to: Key) -> None:
        data, target = f"{self._path_of(home)}/{_DATA}", self._path_of(to)
        directory = os.path.dirname(target)

        def move() -> None:
            try:
                os.rename(data, target)
            except FileNotFoundError as error:
                if not exists(data):
                    raise self._missing(home) from error
                raise
            sync_directory(directory)

        def work() -> None:
            fd = _lock(home, self._path_of(home), state, self._missing)
            with translating("publish", home, target, None):
                try:
                    # A collector spares young objects; the last byte may have come long ago.
                    os.utime(fd)
                    self._directories.within(directory, move)
                finally:
                    os.close(fd)

        await self._pool.run(work)

    async def discard(self, home: Key) -> None:
        path = self._path_of(home)

        def work() -> None:
            with translating("discard upload", home, path, None):
                # What an upload usually leaves; whatever else is there costs the general way.
                with suppress(OSError):
                    for name in os.listdir(path):
                        os.unlink(f"{path}/{name}")
                    os.rmdir(path)
                    return
                remove_tree(path)

        await self._pool.run(work)

    async def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        path = self._path_of(under)
        homes = _homes(path, under)

        def work() -> Key | None:
            return next((home for home in homes if _begun(self._path_of(home)) < before), None)

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
                    os.unlink(self._path_of(key))
            return page

        found: list[Key] = []
        while True:
            with translating("sweep", under, path, None):
                page = await self._pool.run(work)
            if page is None:
                return found
            found += page


class FileAppender:
    """See `driver.Appender`.  Owns the locked descriptor of `data`."""

    def __init__(
        self,
        pool: Pool,
        home: Key,
        path: str,
        fd: int,
        state: UploadState,
        missing: Callable[[str], UploadMissing],
    ) -> None:
        self._missing = missing
        self._pool, self._home, self._path, self._fd = pool, home, path, fd
        self._data = f"{path}/{_DATA}"
        self._state = state
        self._end = self._handed_over = state.offset
        self.touched = False  # something was written since the last checkpoint, perhaps in vain

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        self.touched = True
        with translating("append to", self._home, self._data, None):
            if also is not None and self._pool.has_idle_processor and sum(map(len, chunks)) >= _BESIDE_BYTES:
                await self._pool.run_beside(lambda: self._append(chunks, None), lambda: also(chunks))
            else:
                await self._pool.run(lambda: self._append(chunks, also))

    def _append(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None) -> None:
        end = write_at(self._fd, chunks, self._end)
        if also is not None:
            also(chunks)
        self._end = end
        if end - self._handed_over >= _WRITEBACK_BYTES:
            start_writeback(self._fd, self._handed_over, end - self._handed_over)
            self._handed_over = end

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        size = sum(map(len, chunks))
        state = UploadState(self._end + size, self._state.started, tuple(notes))

        def work() -> None:
            if chunks:
                with translating("append to", self._home, self._data, None):
                    self._append(chunks, also)
            if self.touched:
                sync_data(self._fd, self._data)
            # From here on `leave` must not cut: once a name tells the new offset, the older ones go.
            self._state, self.touched = state, False
            written = {f"{self._path}/{note.name}" for note in notes}
            for note in notes:
                _write_note(self._path, note)
            if not any(_offset_of(path) == state.offset for path in written):
                written.add(f"{self._path}/{_OFFSET}{state.offset}")
                _write(f"{self._path}/{_OFFSET}{state.offset}", b"")
            for _, path in list(_names(self._path)):
                if path not in written:
                    with suppress(FileNotFoundError):
                        os.unlink(path)

        self.touched = self.touched or size > 0
        with translating("checkpoint", self._home, self._path, self._missing):
            await self._pool.run(work)
        return state

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        return await self.checkpoint((), chunks, also)

    def leave(self) -> None:
        """Drop what no checkpoint covers and let the next writer in."""
        with translating("leave", self._home, self._data, None):
            try:
                if self.touched:
                    os.ftruncate(self._fd, self._state.offset)
                    sync_data(self._fd, self._data)  # or a published blob could be longer again after a power cut
            finally:
                os.close(self._fd)


def _lock(home: Key, path: str, state: UploadState, missing: Callable[[str], UploadMissing]) -> int:
    """`data`, open, locked, still in its place, and ending at `state.offset`, durably."""
    data = f"{path}/{_DATA}"
    with translating("lock", home, data, missing):
        fd, _ = open_regular(data, os.O_RDWR)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UploadBusy(home) from error
            status = os.fstat(fd)
            # Whoever had the lock before may have published or discarded what we opened.
            if not os.path.samestat(status, os.stat(data)):
                raise UploadMissing(home)
            offsets = [offset for offset, _ in _names(path)]
            offset = _offset(offsets, status.st_size)
            if offset != state.offset:
                raise UploadChanged(f"{home}: it stands at {offset}, not at {state.offset}")
            if status.st_size > offset:
                os.ftruncate(fd, offset)
            if status.st_size > offset or not offsets:
                sync_data(fd, data)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _offset_of(name: str) -> int | None:
    """The offset that a note's or a marker's name tells."""
    text = name.rpartition("/")[2].removeprefix(_OFFSET)
    return int(text) if text.isascii() and text.isdigit() else None


def _names(path: str) -> Iterator[tuple[int, str]]:
    """(offset, path) of every note and marker.  Raises StorageUnavailable for an upload of a later format."""
    for name in os.listdir(path):
        if name.startswith(_FORMAT) and name != _KNOWN_FORMAT:
            raise StorageUnavailable(
                f"{path}: {name} is not known to this version of Moorage; continue the upload with the version "
                "that began it, or begin it again"
            )
        if name.startswith(_OFFSET) and (offset := _offset_of(name)) is not None:
            yield offset, f"{path}/{name}"
        elif name == _NOTES:
            with suppress(FileNotFoundError, NotADirectoryError):
                for algorithm in os.listdir(f"{path}/{_NOTES}"):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        for note in os.listdir(f"{path}/{_NOTES}/{algorithm}"):
                            if (offset := _offset_of(note)) is not None:
                                yield offset, f"{path}/{_NOTES}/{algorithm}/{note}"


def _offset(offsets: Sequence[int], size: int) -> int:
    if not offsets:
        return size
    return max((offset for offset in offsets if offset <= size), default=0)


def _state(path: str) -> UploadState:
    size = os.stat(f"{path}/{_DATA}").st_size
    found = list(_names(path))
    offset = _offset([at for at, _ in found], size)
    notes = []
    for at, note in found:
        name = note[len(path) + 1 :]
        if at == offset and not name.startswith(_OFFSET):
            with suppress(FileNotFoundError):
                notes.append(Note(name, _read(note)))
    return UploadState(offset, _begun(path), tuple(notes))


def _begun(path: str) -> datetime:
    """What `startedat` says; without a readable one, the time of the last write to anything in it."""
    with suppress(OSError):
        started = started_at(_read(f"{path}/{_STARTED}"))
        if started is not None:
            return started
    newest = 0.0
    for directory, _, files in os.walk(path, onerror=_raise):
        for name in [".", *files]:
            try:
                newest = max(newest, os.stat(f"{directory}/{name}").st_mtime)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ELOOP}:
                    raise
    return datetime.fromtimestamp(newest, UTC)


def _raise(error: OSError) -> None:
    """An entry that cannot be read may be new: treated as old, a live upload would be purged."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _homes(path: str, key: str) -> Iterator[Key]:
    """Every upload below a key, entering no other directory that a repository's name cannot have."""
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
    """What a crash left of files that were being written, last written to before `before`; in pages.

    Those of an upload go with it, and are not looked for.
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


def _read(path: str) -> bytes:
    """The first KiB of a file: more than any note or time has."""
    fd, _ = open_regular(path)
    try:
        return os.read(fd, 1024)
    finally:
        os.close(fd)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    try:
        if data:
            write_at(fd, (data,), 0)
    finally:
        os.close(fd)


def _write_note(home: str, note: Note) -> None:
    """Whole or not at all for other processes; a power cut may take it (module docstring).

    The home itself is never made here: an upload that was discarded meanwhile stays gone.
    """
    parts = note.name.split("/")
    for depth in range(1, len(parts)):
        with suppress(FileExistsError):
            os.mkdir("/".join([home, *parts[:depth]]), DIRECTORY_MODE)
    path = f"{home}/{note.name}"
    temporary = temporary_beside(path)
    try:
        _write(temporary, note.data)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
