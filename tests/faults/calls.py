"""Make the k-th system call on files below one directory fail, in the test's own process.

Each function of `os` that the filesystem driver calls is counted and can be told to fail.  Unlike strace, which
`inject.py` uses on real servers, this is exact: every call of an operation can be made to fail, one after another.

A failing call does what a disk does:

* `pwritev` writes half of its bytes first;
* `fsync` and `fdatasync` lose what was written since the last success, as Linux does (it marks pages clean that it
  could not write: https://wiki.postgresql.org/wiki/Fsync_Errors);
* `close` closes the descriptor all the same (close(2), "Dealing with error returns from close()").

Successful syncs are not passed on to the disk: nothing here cuts the power.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

__all__ = ["Calls"]

_NAMES: Final = (
    "close", "fdatasync", "fstat", "fsync", "ftruncate", "link", "listdir", "lstat", "mkdir", "mknod", "open",
    "pread", "pwritev", "read", "rename", "rmdir", "scandir", "stat", "unlink",
)  # fmt: skip


class Calls:
    """Counts the calls below `root`; `arm` chooses the one that fails."""

    def __init__(self, patch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = str(root)
        self._lock = threading.Lock()
        self._durable: dict[int, int] = {}
        self.open: dict[int, str] = {}
        """Descriptors of files below the root, which an operation has to close in any case."""
        self.failed = ""
        """The call that was made to fail, `fsync` for one."""
        self.synced: list[str] = []
        """What was synced, in order."""
        self._left, self._number = 0, 0
        self._real: dict[str, Callable[..., Any]] = {}
        for name in _NAMES:
            self._real[name] = getattr(os, name)
            patch.setattr(os, name, partial(self._call, name))
        self._real["flock"] = fcntl.flock
        patch.setattr(fcntl, "flock", partial(self._call, "flock"))

    def move(self, root: Path) -> None:
        """Watch another directory, with nothing armed."""
        assert not self.open, self.open
        self.root, self._left, self.failed = str(root), 0, ""
        self._durable.clear()

    def arm(self, which: int, number: int) -> None:
        """Let the `which`-th call from now on, counted from 1, fail with the errno `number`."""
        self._left, self._number, self.failed = which, number, ""

    def disarm(self) -> None:
        self._left = 0

    def _concerns(self, target: object, rest: dict[str, Any]) -> bool:
        if rest.get("dir_fd") is not None:
            return rest["dir_fd"] in self.open
        if isinstance(target, str):
            return target == self.root or target.startswith(f"{self.root}/")
        return target in self.open

    def _call(self, name: str, *arguments: Any, **rest: Any) -> Any:
        target: Any = arguments[0] if arguments else "."
        if not self._concerns(target, rest):
            return self._real[name](*arguments, **rest)
        with self._lock:
            self._left -= 1
            fails = self._left == 0
        if fails:
            self.failed = name
            self._break(name, arguments)
            paths = [target, None, arguments[1]] if name in {"link", "rename"} else [target]
            raise OSError(self._number, os.strerror(self._number), *(paths if isinstance(target, str) else ()))
        if name in {"fsync", "fdatasync"}:
            self._durable[self._inode(target)] = self._size(target)
            self.synced.append(self.open[target])
            return None
        if name == "close":
            del self.open[target]
        result = self._real[name](*arguments, **rest)
        if name == "open":
            self.open[result] = str(target)
            self._durable.setdefault(self._inode(result), self._size(result))
            if arguments[1] & (os.O_EXCL | os.O_TRUNC):
                self._durable[self._inode(result)] = 0
        elif name == "ftruncate":
            self._durable[self._inode(target)] = min(self._durable[self._inode(target)], arguments[1])
        return result

    def _break(self, name: str, arguments: tuple[Any, ...]) -> None:
        target = arguments[0]
        if name == "close":
            del self.open[target]
            self._real["close"](target)
        elif name == "pwritev":
            data = b"".join(arguments[1])
            os.pwrite(target, data[: len(data) // 2], arguments[2])
        elif name in {"fsync", "fdatasync"} and stat.S_ISREG(self._real["fstat"](target).st_mode):
            synced = self._durable[self._inode(target)]
            os.pwrite(target, bytes(self._size(target) - synced), synced)

    def _inode(self, fd: int) -> int:
        return int(self._real["fstat"](fd).st_ino)

    def _size(self, fd: int) -> int:
        return int(self._real["fstat"](fd).st_size)
