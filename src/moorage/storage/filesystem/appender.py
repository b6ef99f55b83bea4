"""Appender of the filesystem driver: locks an upload's file, appends to it, syncs it at checkpoints.

Above: `uploads.py`, which draws the files.  Below: `upload_files.py`, `durable.py`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import UploadBusy, UploadChanged, UploadMissing, UploadState
from moorage.storage.filesystem.durable import create_empty, start_writeback, sync_data, write_at
from moorage.storage.filesystem.errors import translating
from moorage.storage.filesystem.upload_files import (
    DATA,
    OFFSET,
    found_names,
    offset_in,
    offset_reached,
    version_of,
    write_note,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.storage.driver import Key, Note
    from moorage.storage.filesystem.threads import ThreadPool

__all__ = ["FileAppender", "lock", "open_locked"]

_WRITEBACK_BYTES: Final = 8 << 20
"""Writeback starts after this many bytes: the kernel alone would wait for the fsync, or up to 30 s."""
_PARALLEL_BYTES: Final = 256 << 10
"""From this size on hashing takes longer than the hand-over to another thread."""


class FileAppender:
    """Implements `driver.Appender`.  Owns the locked descriptor of `data`."""

    def __init__(
        self,
        pool: ThreadPool,
        home: Key,
        path: str,
        fd: int,
        state: UploadState,
        names: Sequence[str],
        missing: Callable[[str], UploadMissing],
    ) -> None:
        self._missing = missing
        self._names = names
        self._pool = pool
        self._home = home
        self._path = path
        self._fd = fd
        self._data = f"{path}/{DATA}"
        self._state = state
        self._end = self._handed_over = state.offset
        self.touched = False  # a write was attempted since the last checkpoint

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        self.touched = True
        with translating("append to", self._home, self._data, None):
            if also is not None and self._pool.has_idle_processor and sum(map(len, chunks)) >= _PARALLEL_BYTES:
                await self._pool.run_both(lambda: self._append(chunks, None), lambda: also(chunks))
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

        def work() -> UploadState:
            if chunks:
                with translating("append to", self._home, self._data, None):
                    self._append(chunks, also)
            if self.touched:
                sync_data(self._fd, self._data)
            version = version_of(os.fstat(self._fd))
            state = UploadState(self._end, self._state.started, tuple(notes), version)
            # From here on `leave` must not truncate: the name with the new offset replaces the older ones.
            self._state = state
            self.touched = False
            self._name(state)
            return state

        self.touched = self.touched or size > 0
        with translating("checkpoint", self._home, self._path, self._missing):
            return await self._pool.run(work)

    def _name(self, state: UploadState) -> None:
        """Write the notes and the marker of a checkpoint, and remove those of the previous one."""
        before = self._names
        written = [f"{self._path}/{note.name}" for note in state.notes]
        for note in state.notes:
            write_note(self._path, note)
        if not any(offset_in(path) == state.offset for path in written):
            marker = f"{self._path}/{OFFSET}{state.offset}"
            written.append(marker)
            if len(before) == 1 and before[0].startswith(f"{self._path}/{OFFSET}"):
                os.rename(before[0], marker)
                before = ()
            else:
                create_empty(marker)
        self._names = written
        for path in before:
            if path not in written:
                with suppress(FileNotFoundError):
                    os.unlink(path)

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        return await self.checkpoint((), chunks, also)

    def cut(self) -> None:
        """Truncate to the last checkpoint."""
        with translating("lock", self._home, self._data, None):
            _cut(self._fd, self._data, self._state.offset)
            self.touched = False

    def leave(self) -> None:
        """Truncate to the last checkpoint and release the lock."""
        with translating("leave", self._home, self._data, None):
            try:
                if self.touched:
                    _cut(self._fd, self._data, self._state.offset)
            finally:
                os.close(self._fd)


def lock(
    home: Key, path: str, state: UploadState, missing: Callable[[str], UploadMissing]
) -> tuple[int, Sequence[str]]:
    """Open and lock `data` and truncate it durably to `state.offset`.

    Return its descriptor, and the paths of notes and markers.
    """
    fd, names, whole = open_locked(home, path, state, missing)
    if not whole:
        try:
            with translating("lock", home, path, missing):
                _cut(fd, f"{path}/{DATA}", state.offset)
        except BaseException:
            os.close(fd)
            raise
    return fd, names


def _cut(fd: int, path: str, offset: int) -> None:
    os.ftruncate(fd, offset)
    sync_data(fd, path)  # without it a published blob could regain the dropped bytes after a power failure


def open_locked(
    home: Key, path: str, state: UploadState, missing: Callable[[str], UploadMissing]
) -> tuple[int, Sequence[str], bool]:
    """Open and lock `data`; return its descriptor, the paths of notes and markers, and whether `state` is its end.

    A few system calls that do not wait for the disk, so `append` makes them on the event loop, as `state` does.
    """
    data = f"{path}/{DATA}"
    with translating("lock", home, data, missing):
        fd = os.open(data, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UploadBusy(home) from error
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise missing(home)
            # The previous holder of the lock may have published or discarded the opened file.
            if not os.path.samestat(status, os.stat(data)):
                raise UploadMissing(home)
            found = list(found_names(path))
            offset = offset_reached([at for at, _ in found], status.st_size)
            if offset != state.offset:
                raise UploadChanged(f"{home}: its offset is {offset}, not {state.offset}")
        except BaseException:
            os.close(fd)
            raise
    return fd, [name for _, name in found], bool(found) and status.st_size == offset
