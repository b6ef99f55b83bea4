"""Uploads as growing files, interchangeable with CNCF Distribution's.

    HOME/startedat              when it began: UTC, RFC 3339, seconds, 20 bytes
    HOME/data                   the bytes; flock(2)ed by whoever extends or publishes them
    HOME/hashstates/ALG/OFFSET  notes: the last path component is the offset they belong to

An upload stands at the greatest offset that a note names and `data` reaches.  Bytes past it were written by
a request that died before its checkpoint, are not known to be whole after a power cut, and are cut off by the
next writer.  An upload without any note stands at the size of `data`.

A checkpoint makes the data durable first and then writes the notes without fsync: a note lost in a power cut
means an earlier offset, never a wrong one.  Starting an upload is not durable at all; a client whose upload a
power cut took away starts again.

Source: reference/storage-layout.md sections 1, 2 and 5.
"""

from __future__ import annotations

import fcntl
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
from moorage.storage.durable import Directories, remove_tree, sync_directory, temporary_beside, write_all
from moorage.storage.filesystem import FileReader, Pool, translating

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from moorage.storage.driver import Appender, Reader

__all__ = ["FilesystemUploads"]

_STARTED: Final = "startedat"
_DATA: Final = "data"
_NOTES: Final = "hashstates"
_NOT_REPOSITORIES: Final = {"_layers", "_manifests", "_referrers"}


class FilesystemUploads:
    """See `driver.Uploads`."""

    def __init__(self, path_of: Callable[[str], str], pool: Pool, directories: Directories) -> None:
        self._path_of, self._pool, self._directories = path_of, pool, directories

    async def begin(self, home: Key) -> UploadState:
        path = self._path_of(home)
        started = datetime.now(UTC).replace(microsecond=0)

        def work() -> None:
            with translating(home, StorageUnavailable):
                os.makedirs(path, exist_ok=True)
                _write_plainly(f"{path}/{_STARTED}", _stamp(started))
                _write_plainly(f"{path}/{_DATA}", b"")

        await self._pool.run(work)
        return UploadState(0, started)

    async def state(self, home: Key) -> UploadState:
        path = self._path_of(home)
        with translating(home, UploadMissing):
            size = os.stat(f"{path}/{_DATA}").st_size
        return _state(path, size)

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        path = self._path_of(home)

        def enter() -> FileAppender:
            fd = _lock(home, path, state)
            return FileAppender(self._pool, home, path, fd, state)

        appender = await self._pool.run(enter)
        try:
            yield appender
        finally:
            await self._pool.run(appender.leave)

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        path = f"{self._path_of(home)}/{_DATA}"
        with translating(home, UploadMissing):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < state.offset:
                raise UploadChanged(f"{home}: fewer than {state.offset} bytes are left")
            yield FileReader(self._pool, fd, Stat(home, state.offset, state.started), 0, state.offset)
        finally:
            os.close(fd)

    async def publish(self, home: Key, state: UploadState, to: Key) -> None:
        path, target = self._path_of(home), self._path_of(to)
        directory = os.path.dirname(target)

        def place() -> None:
            with suppress(FileNotFoundError):
                if os.stat(target).st_size == state.offset:
                    return
            os.rename(f"{path}/{_DATA}", target)

        def work() -> None:
            fd = _lock(home, path, state)
            try:
                with translating(home, StorageUnavailable):
                    os.fsync(fd)
                    self._directories.within(directory, place)
                    # Also for a blob that was there: whoever put it there may not have come this far yet.
                    sync_directory(directory)
            finally:
                os.close(fd)

        await self._pool.run(work)

    async def discard(self, home: Key) -> None:
        path = self._path_of(home)

        def work() -> None:
            with translating(home, StorageUnavailable):
                remove_tree(path)

        await self._pool.run(work)

    async def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        homes = _homes(self._path_of(under), under)
        while True:
            with translating(under, StorageUnavailable):
                home = await self._pool.run(lambda: next(homes, None))
                if home is None:
                    return
                begun = await self._pool.run(lambda: _begun(self._path_of(home)))  # noqa: B023
            if begun < before:
                yield home


class FileAppender:
    """See `driver.Appender`.  Owns the locked descriptor of `data`."""

    def __init__(self, pool: Pool, home: Key, path: str, fd: int, state: UploadState) -> None:
        self._pool, self._home, self._path, self._fd = pool, home, path, fd
        self._state = state
        self._written = state.offset
        os.ftruncate(fd, state.offset)
        os.lseek(fd, state.offset, os.SEEK_SET)

    async def write(self, chunks: Sequence[bytes]) -> None:
        def work() -> None:
            with translating(self._home, StorageUnavailable):
                write_all(self._fd, chunks)

        await self._pool.run(work)
        self._written += sum(map(len, chunks))

    async def checkpoint(self, notes: Sequence[Note] = ()) -> UploadState:
        state = UploadState(self._written, self._state.started, tuple(notes))

        def work() -> None:
            with translating(self._home, StorageUnavailable):
                if self._written != self._state.offset:
                    os.fdatasync(self._fd)
                keep = {f"{self._path}/{note.name}" for note in notes}
                for note in notes:
                    _write_note(f"{self._path}/{note.name}", note.data)
                for _, path in list(_notes(self._path)):
                    if path not in keep:
                        os.unlink(path)

        await self._pool.run(work)
        self._state = state
        return state

    def leave(self) -> None:
        """Drop what no checkpoint covers and let the next writer in."""
        try:
            if self._written != self._state.offset or os.lseek(self._fd, 0, os.SEEK_CUR) != self._written:
                with translating(self._home, StorageUnavailable):
                    os.ftruncate(self._fd, self._state.offset)
        finally:
            os.close(self._fd)


def _lock(home: Key, path: str, state: UploadState) -> int:
    """`data`, open, locked, still in its place, and standing at `state.offset`."""
    with translating(home, UploadMissing):
        fd = os.open(f"{path}/{_DATA}", os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UploadBusy(home) from error
            status = os.fstat(fd)
            if not os.path.samestat(status, os.stat(f"{path}/{_DATA}")):
                raise UploadMissing(home)
            if (offset := _offset(path, status.st_size)) != state.offset:
                raise UploadChanged(f"{home}: it stands at {offset}, not at {state.offset}")
            if status.st_size > offset:
                os.ftruncate(fd, offset)
        except BaseException:
            os.close(fd)
            raise
    return fd


def _notes(path: str) -> Iterator[tuple[int, str]]:
    """(offset, path) of every note."""
    with suppress(FileNotFoundError):
        for algorithm in os.listdir(f"{path}/{_NOTES}"):
            with suppress(NotADirectoryError):
                for name in os.listdir(f"{path}/{_NOTES}/{algorithm}"):
                    if name.isascii() and name.isdigit():
                        yield int(name), f"{path}/{_NOTES}/{algorithm}/{name}"


def _offset(path: str, size: int) -> int:
    return max((offset for offset, _ in _notes(path) if offset <= size), default=size)


def _state(path: str, size: int) -> UploadState:
    found = [(offset, note) for offset, note in _notes(path) if offset <= size]
    offset = max((offset for offset, _ in found), default=size)
    notes = []
    for at, note in found:
        if at == offset:
            with suppress(FileNotFoundError), open(note, "rb") as file:
                notes.append(Note(os.path.relpath(note, path), file.read()))
    return UploadState(offset, _begun(path), tuple(notes))


def _begun(path: str) -> datetime:
    """What `startedat` says; without a readable one, the time of the last write to anything in it."""
    with suppress(OSError, ValueError), open(f"{path}/{_STARTED}", encoding="ascii") as file:
        return datetime.fromisoformat(file.read().strip())
    newest = 0.0
    for directory, _, files in os.walk(path):
        for name in [".", *files]:
            with suppress(FileNotFoundError):
                newest = max(newest, os.stat(f"{directory}/{name}").st_mtime)
    return datetime.fromtimestamp(newest, UTC)


def _homes(path: str, key: str) -> Iterator[Key]:
    """Every upload below a key, not looking into what holds no uploads."""
    waiting = [(path, key)]
    while waiting:
        directory, name = waiting.pop()
        with suppress(FileNotFoundError, NotADirectoryError):
            for child in os.listdir(directory):
                if os.path.basename(name) == "_uploads":
                    yield Key(f"{name}/{child}")
                elif child not in _NOT_REPOSITORIES and os.path.isdir(f"{directory}/{child}"):
                    waiting.append((f"{directory}/{child}", f"{name}/{child}"))


def _stamp(when: datetime) -> bytes:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _write_plainly(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _write_note(path: str, data: bytes) -> None:
    """Whole or not at all for other processes; a power cut may take it (module docstring)."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = temporary_beside(path)
    try:
        _write_plainly(temporary, data)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
