"""Files that survive a power cut: the order of write, fsync, rename and directory fsync, in one place.

A file is durable when its bytes, its directory entry and every new directory above it are.  The reference
fsyncs the file and its directory but never the parents it made, nor the directory a blob was renamed into
(reference/storage-layout.md section 4), so a link could survive without its blob.

Everything here blocks and runs in the driver's threads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "Directories",
    "locked",
    "remove_tree",
    "replace_file",
    "sync_directory",
    "temporary_beside",
    "version_of",
    "write_all",
]

_T = TypeVar("_T")

_RETRIES: Final = 20
"""How often a writer makes a directory again that a concurrent delete took away as empty."""

_KNOWN_LIMIT: Final = 1 << 16
_WRITEV_LIMIT: Final = 1024  # IOV_MAX on Linux


def write_all(fd: int, chunks: Sequence[bytes]) -> None:
    """Append all chunks, however often the kernel takes only part of them."""
    for start in range(0, len(chunks), _WRITEV_LIMIT):
        views: list[memoryview] = [memoryview(chunk) for chunk in chunks[start : start + _WRITEV_LIMIT] if chunk]
        while views:
            written = os.writev(fd, views)
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if views and written:
                views[0] = views[0][written:]


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(directory: str) -> Iterator[int]:
    """The directory, open and exclusively locked against every writer of every process that uses this."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def version_of(status: os.stat_result) -> str:
    """Every write makes a new inode, so inode, time and size name one state of a file."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


class Directories:
    """Makes directories durably, and remembers which ones are, so that each is fsynced once per process.

    That a directory exists does not mean its entry is durable: another process may have made it a moment
    ago.  So a directory is trusted only after this process has fsynced its parent.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def ensure(self, path: str) -> None:
        """`path` exists and will after a power cut."""
        if path in self._known:
            return
        if path == self._root or len(path) <= len(self._root):
            os.makedirs(self._root, exist_ok=True)
        else:
            parent = os.path.dirname(path)
            self.ensure(parent)
            with suppress(FileExistsError):
                os.mkdir(path)
            sync_directory(parent)
        with self._lock:
            if len(self._known) >= _KNOWN_LIMIT:
                self._known.clear()
            self._known.add(path)

    def forget(self, path: str) -> None:
        """`path` or something above it was found missing."""
        with self._lock:
            while len(path) >= len(self._root):
                self._known.discard(path)
                path = os.path.dirname(path)

    def within(self, directory: str, action: Callable[[], _T]) -> _T:
        """Run `action` with `directory` durably there, again if a concurrent delete removed it meanwhile."""
        for _ in range(_RETRIES):
            try:
                self.ensure(directory)
                return action()
            except FileNotFoundError:
                self.forget(directory)
        self.ensure(directory)
        return action()


def temporary_beside(path: str) -> str:
    """A new name in the same directory, in the reference's form `NAME.UUID.tmp`, which listings leave out."""
    return f"{path}.{uuid.uuid4()}.tmp"


def remove_tree(path: str) -> None:
    """Remove a directory and all below it; what others remove meanwhile is fine, what they add goes too."""
    for attempt in range(_RETRIES):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == _RETRIES - 1:
                raise
        else:
            return


def replace_file(path: str, data: bytes, commit: Callable[[str], None]) -> str:
    """Write `data` to a temporary file beside `path`, durable, then let `commit(temporary)` put it in place.

    Whatever happens, no temporary file stays (short of a crash; then the name, `NAME.UUID.tmp`, is the
    reference's, and both ignore it).  Returns the version of the new file.
    """
    temporary = temporary_beside(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            write_all(fd, (data,))
            os.fsync(fd)
            version = version_of(os.fstat(fd))
        finally:
            os.close(fd)
        commit(temporary)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return version
