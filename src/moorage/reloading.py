"""Files that are read again when they change: passwords, keys for tokens, policies, certificates.

A change is noticed by stat(2), symbolic links followed: a new file under the old name (certbot), a link to another
file (secrets of Kubernetes are two links deep) and a file overwritten in place all change the stamp.
inotify would be quicker, but sees nothing on network file systems.

The "young file" rule: a file is read at each check while its time of modification is less than two seconds ago,
because a second edit within one tick of the file system's clock does not move that time (git's index has the same
rule, "racily clean").  So an unchanged stamp proves that the content is unchanged.

Only regular files are read.  Opening a named pipe blocks until there is a writer, and a device such as /dev/zero
never ends; both would block the process or fill its memory.

Used by `auth/` and, for certificates, by `server/tls/`; `config/checks/files.py` reports unreadable files.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT_LIMIT_BYTES", "Reload", "ReloadedFile", "Stamp", "read_regular", "reason_of", "stamp_of"]

_T = TypeVar("_T")

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, times of modification and of change of a file."""

DEFAULT_LIMIT_BYTES: Final = 4 << 20
YOUNG_S: Final = 2.0
"""Longest tick of a file system's clock (FAT)."""

_KINDS: Final = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Reload(enum.Enum):
    """Result of a check of a file."""

    NOTHING = enum.auto()
    """The file is as it was at the last check."""
    SAME = enum.auto()
    """The file was edited, or is readable again, and has the content that it had."""
    CHANGED = enum.auto()
    """The file has another content, which is the value now."""
    FAILED = enum.auto()
    """The file cannot be used, for another reason than at the last check; the value is the old one."""


class ReloadedFile(Generic[_T]):
    """A file and what `parse` made of its content, read again when it changes.

    `parse` raises ValueError for content that cannot be used.  `value` is what it returned last, `initial` before
    that.  `problem` is why the present file cannot be used: OSError if it cannot be read, else ValueError.
    May be used in any thread, but in one at a time.  `wall` returns seconds since the epoch.
    """

    __slots__ = (
        "_broken",
        "_data",
        "_limit_bytes",
        "_parse",
        "_stamp",
        "_wall",
        "_young",
        "path",
        "problem",
        "value",
    )

    def __init__(
        self,
        path: str,
        parse: Callable[[bytes], _T],
        initial: _T,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.value = initial
        self.problem: OSError | ValueError | None = None
        self._parse = parse
        self._limit_bytes = limit_bytes
        self._wall = wall
        self._stamp: Stamp | None = None
        self._young = True  # not read yet
        self._data: bytes | None = None
        self._broken = False

    def load(self) -> _T:
        """Read the file for the first time.  Raises OSError, or ValueError if it cannot be parsed."""
        self.reload()
        if self.problem is not None:
            raise self.problem
        return self.value

    def is_changed(self) -> bool:
        """Return whether `reload` is due; costs a stat(2), and less time than `reload` if nothing changed."""
        if self._young:
            return True
        try:
            status = os.stat(self.path)  # noqa: PTH116  half the time of Path.stat, on every request with a password
        except (OSError, ValueError):
            return self._stamp is not None
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return stamp != self._stamp

    def reload(self) -> Reload:
        """Read the file if it changed, and update `value` and `problem`; costs a stat(2) if it did not."""
        try:
            # Before the content: a change in between changes the stamp again.
            status = os.stat(self.path)  # noqa: PTH116  as above
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if stamp == self._stamp and not self._young:
                return Reload.NOTHING
            data = read_regular(self.path, self._limit_bytes)
        except (OSError, ValueError) as error:
            self._stamp = None
            self._young = False
            return self._failed(error)
        edited = stamp != self._stamp
        self._stamp = stamp
        self._young = 0 <= self._wall() - status.st_mtime < YOUNG_S
        return self._take(data, edited=edited)

    def _failed(self, error: OSError | ValueError) -> Reload:
        before = self.problem
        self.problem = error
        known = before is not None and reason_of(before) == reason_of(error)
        return Reload.NOTHING if known else Reload.FAILED

    def _take(self, data: bytes, *, edited: bool) -> Reload:
        if not edited and data == self._data:
            return Reload.NOTHING
        if data == self._data and not self._broken:
            self.problem = None
            return Reload.SAME
        # A malformed file that was edited is parsed again even if it is the same: `parse` may read other files.
        self._data = data
        try:
            self.value = self._parse(data)
        except ValueError as error:
            self.problem = error
            self._broken = True
            return Reload.FAILED
        self.problem = None
        self._broken = False
        return Reload.CHANGED


def stamp_of(path: str) -> Stamp | None:
    """Return what changes when the file changes; None if it does not exist or stat(2) fails."""
    try:
        status = os.stat(path)  # noqa: PTH116  as above
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_regular(path: str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> bytes:
    """Return the content of a regular file of at most `limit_bytes`.  Never blocks on a named pipe or a device.

    Raises OSError, also for a file that is not regular or too large, and ValueError for an impossible path.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(stat.S_IFSOCK) from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise _not_regular(mode)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes")
    return data


def reason_of(error: OSError | ValueError) -> str:
    """Return the reason why a file cannot be used, in words for a message that names the file."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _not_regular(mode: int) -> OSError:
    kind = next((name for test, name in _KINDS if test(mode)), "a special file")
    return OSError(errno.EINVAL, f"not a regular file but {kind}; give the path of a regular file")
