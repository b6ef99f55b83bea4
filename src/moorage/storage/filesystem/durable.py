"""Durable files: the order of write, fsync, rename and directory fsync that survives a power cut.

A file is durable when its bytes, its directory entry and every new directory above it are:

    mkdir what is missing ─► temporary file, write, fsync ─► rename ─► fsync its directory ─► fsync the
                                                             parents of directories not known to be durable

The parents come last because on a journalling filesystem the file's fsync has already committed the mkdir;
fsynced first, each would have been a commit of its own.  The reference fsyncs the file and its directory but
never the parents it made, nor the directory a blob was renamed into (storage layout of 2.8 to 3.1), so there a
link could survive without its blob.

Files are created with mode 0644 and directories with 0755 at most: a umask can only take bits away, and a service
manager that starts the registry with umask 0 must not make blobs writable for every user of the host.

Everything here blocks and runs in the driver's threads.  Errors of fsync and fdatasync get the path and the name
of the call here, since the system's own do not say which file could not be synced.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import re
import shutil
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "DIRECTORY_MODE",
    "FILE_MODE",
    "Directories",
    "changing",
    "create_empty",
    "create_file",
    "exists",
    "file_status",
    "is_directory",
    "is_directory_entry",
    "is_temporary_name",
    "make_with_parents",
    "move_unless_there",
    "open_regular",
    "remove_tree",
    "start_writeback",
    "sync",
    "sync_data",
    "sync_directory",
    "temporary_beside",
    "write_at",
    "write_whole",
]

_T = TypeVar("_T")

_TEMPORARY: Final = re.compile(r".+\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp", re.ASCII)

_RETRIES: Final = 20
"""Attempts of a writer to recreate a directory that a concurrent delete has removed as empty."""

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755

_KNOWN_LIMIT: Final = 1 << 16
_WRITEV_LIMIT: Final = 1024  # IOV_MAX on Linux
_NO_HARD_LINKS: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}


_SYNC_FILE_RANGE_WRITE: Final = 2


def _load_sync_file_range() -> Any:
    """Return the C library's `sync_file_range`, which Python has no name for; None where there is none."""
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_sync_file_range: Final = _load_sync_file_range()


def write_at(fd: int, chunks: Sequence[bytes], offset: int) -> int:
    """Write all chunks from `offset` on, however often the kernel takes only part of them; the new offset."""
    for start in range(0, len(chunks), _WRITEV_LIMIT):
        views = [memoryview(chunk) for chunk in chunks[start : start + _WRITEV_LIMIT] if chunk]
        while views:
            written = os.pwritev(fd, views, offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
    return offset


def create_file(path: str) -> int:
    """Return the descriptor of a new file, for writing.  Raises FileExistsError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)


def create_empty(path: str) -> None:
    """Create a file of no bytes, unless there is one."""
    try:
        os.mknod(path, FILE_MODE | stat.S_IFREG)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:  # some network file systems, and some systems, have it for no user
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE))


def open_regular(path: str, flags: int = os.O_RDONLY) -> tuple[int, os.stat_result]:
    """Return descriptor and status of a regular file.  Raises FileNotFoundError for any other kind.

    Opened without O_NONBLOCK, a FIFO without a writer would block the caller for good.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def start_writeback(fd: int, offset: int, size: int) -> None:
    """Let the kernel write these bytes to disk now, without waiting for them, so that a later fsync is short.

    Promises nothing, so a file system that cannot do this is no failure; nor is an error of the disk, which the
    fsync reports.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def sync(fd: int, path: str) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise OSError(error.errno, f"fsync: {error.strerror}", path) from error


def sync_data(fd: int, path: str) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise OSError(error.errno, f"fdatasync: {error.strerror}", path) from error


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd, path)
    finally:
        os.close(fd)


@contextmanager
def changing(directory: str) -> Iterator[None]:
    """Lock the directory against other users of this function on this host, and fsync it at the end.

    Changes of the body are durable when the context is left without an error.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
        fcntl.flock(fd, fcntl.LOCK_UN)  # the fsync runs without the lock
        sync(fd, directory)
    finally:
        os.close(fd)


class Directories:
    """Makes directories, durably, and remembers which ones are, so that each is fsynced once per process.

    That a directory exists does not mean its entry is durable: another process may have made it a moment
    ago.  So a directory is trusted only after this process has fsynced its parent.  What remains: one that was
    removed and made again by others since is trusted for the milliseconds until its maker's own fsync.
    """

    def __init__(self, root: str, create_root: Callable[[], None]) -> None:
        """`create_root` creates `root` and the directories above it, or raises if it was there and is lost."""
        self._root = root
        self._create_root = create_root
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def _make(self, path: str, made: list[str]) -> list[str]:
        """Make `path` and the directories above it; return those whose entry may not be durable yet.

        Those that this call created are added to `made`, except the root, which stays if the operation fails.
        """
        unsure: list[str] = []
        while path not in self._known:
            unsure.append(path)
            if path == self._root:
                self._create_root()
                break
            path = os.path.dirname(path)
        for directory in reversed(unsure):
            if directory != self._root:
                _make_one(directory, made)
        return unsure

    def within(
        self, directory: str, action: Callable[[], _T], *, settle: bool = True, made: list[str] | None = None
    ) -> _T:
        """Run `action` with `directory` there, again if a concurrent delete removed it meanwhile; when this
        returns, the directory's own entry is durable, and so are those above it.

        Without `settle` that is left to a later call.  If this raises, the directories that it created are removed
        again, unless others have put something there; else they are added to `made`.
        """
        created: list[str] = []

        def once() -> _T:
            unsure = self._make(directory, created)
            result = action()
            if settle:
                self._settle(unsure)
            return result

        try:
            for _ in range(_RETRIES):
                try:
                    result = once()
                    break
                except FileNotFoundError:
                    self.forget(directory)
            else:
                result = once()
        except BaseException:
            self.remove(created)
            raise
        if made is not None:
            made += created
        return result

    def remove(self, made: Sequence[str]) -> None:
        """Remove directories that a failed operation created, deepest first; one that is in use stays."""
        for path in sorted(set(made), key=len, reverse=True):
            with suppress(OSError):
                os.rmdir(path)
                self.forget(path)

    def _settle(self, unsure: list[str]) -> None:
        for path in unsure:
            if path == self._root:
                self._settle_root()
            else:
                sync_directory(os.path.dirname(path))
        self._trust(unsure)

    def settle(self, directories: Iterable[str]) -> None:
        """Make the entries of these directories durable, and of those above them, each fsynced at most once.

        A directory that a deletion has removed meanwhile is left out: with it went what was in it.
        """
        unsure: dict[str, None] = {}
        for directory in directories:
            path = directory
            while path not in self._known and path not in unsure:
                unsure[path] = None
                if path == self._root:
                    break
                path = os.path.dirname(path)
        parents: dict[str, list[str]] = {}
        for path in unsure:
            parents.setdefault(os.path.dirname(path), []).append(path)
        for parent, children in parents.items():
            try:
                if self._root in children:
                    self._settle_root()
                else:
                    sync_directory(parent)
            except FileNotFoundError:
                self.forget(parent)
            else:
                self._trust(children)

    def _trust(self, durable: Sequence[str]) -> None:
        with self._lock:
            if len(self._known) + len(durable) > _KNOWN_LIMIT:
                self._known.clear()
            self._known.update(durable)

    def _settle_root(self) -> None:
        """Sync all entries from the root up to where its file system is mounted, once per process."""
        path, device = self._root, os.stat(self._root).st_dev
        while (above := os.path.dirname(path)) != path and os.stat(above).st_dev == device:
            # A directory with search but no read permission is the operator's, who made the next one in it.
            with suppress(PermissionError):
                sync_directory(above)
            path = above

    def forget(self, path: str) -> None:
        """`path` or something above it was found missing."""
        with self._lock:
            while len(path) >= len(self._root):
                self._known.discard(path)
                path = os.path.dirname(path)


def _make_one(path: str, made: list[str]) -> None:
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError:  # the system may report a lack of permission before it checks whether the directory exists
        if not os.path.isdir(path):
            raise
        return
    made.append(path)


def make_with_parents(path: str, made: list[str]) -> None:
    """Make a directory and those above it; the ones that were missing are added to `made`.

    `os.makedirs` would leave the mode of those above it to the umask.
    """
    try:
        _make_one(path, made)
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if parent == path:
            raise
        make_with_parents(parent, made)
        _make_one(path, made)


def exists(path: str) -> bool:
    """Return whether an entry exists.  Unlike `os.path.lexists`, raises OSError if that is unknown."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_directory(path: str) -> bool:
    """Return whether a directory, or a link to one, exists.  Raises OSError if that is unknown."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        return False


def is_directory_entry(entry: os.DirEntry[str]) -> bool:
    """Return what `is_directory` does, without a system call unless it is a link; a link to itself is no
    directory.
    """
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and is_directory(entry.path))


def file_status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the status of a regular file; None if it is missing, of another kind, or a dangling link."""
    try:
        status = entry.stat()
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            raise
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def temporary_beside(path: str) -> str:
    """Return a new name in the same directory, `NAME.UUID.tmp` as by CNCF Distribution, which listings omit."""
    text = f"{random.getrandbits(128):032x}"
    return f"{path}.{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}.tmp"


def is_temporary_name(name: str) -> bool:
    """Return whether `name` has the form of `temporary_beside`; a directory (of a tag) may have it, too."""
    return name.endswith(".tmp") and _TEMPORARY.fullmatch(name) is not None


def write_whole(path: str, data: bytes, put: Callable[[str], None]) -> None:
    """Write `data` to a temporary file beside `path`, fsync it, and let `put(temporary)` give it its name.

    No temporary file stays, except after a crash; its name, `NAME.UUID.tmp`, is ignored by Moorage and CNCF
    Distribution.
    """
    temporary = temporary_beside(path)
    fd = create_file(temporary)
    try:
        try:
            write_at(fd, (data,), 0)
            sync(fd, temporary)
        finally:
            os.close(fd)
        put(temporary)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def move_unless_there(temporary: str, path: str) -> None:
    """Give `temporary` its name.  Raises FileExistsError when the name is taken.

    The caller holds `changing`, which is enough among the processes of one host; link(2) also decides
    between hosts that share the directory.  Some FUSE and SMB mounts have no hard links.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        os.rename(temporary, path)
    else:
        os.unlink(temporary)


def remove_tree(path: str) -> None:
    """Remove a directory and all below it; what others remove meanwhile is fine, what they add goes too."""
    for attempt in range(_RETRIES):
        try:
            shutil.rmtree(path)
        except (FileNotFoundError, NotADirectoryError):
            if not is_directory(path):
                return
            if attempt == _RETRIES - 1:
                raise
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == _RETRIES - 1:
                raise
        else:
            return
