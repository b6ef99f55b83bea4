"""Private bytes that have a path: what is checked once and read again by every worker, without a file on disk.

The bytes lie in anonymous memory that nobody can write to any more, memfd_create(2), so all workers of one plan
read exactly what the master has checked, however the files they came from change in between, and whenever a worker
is started again.  The memory goes with the last process that holds it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from moorage.server.cannot import Cannot

__all__ = ["Sealed"]

_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_NOEXEC: Final = 0x8
"""MFD_NOEXEC_SEAL of Linux 6.3: without, hardened systems (vm.memfd_noexec=2) refuse; older do not know it."""

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Sealed:
    """`path` can be opened by this process and those that it forks, for as long as this object lives.

    `name` is what /proc shows.  Raises `Cannot`.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, name: str, data: bytes) -> None:
        self._descriptor = -1
        try:
            self._descriptor = _anonymous(name)
            self.path = f"/proc/self/fd/{self._descriptor}"
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
            os.close(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            # A program with file capabilities (setcap) may not open its own descriptors again, see proc(5).
            raise Cannot(
                f"cannot keep certificates in memory: {error.strerror}: needs memfd_create and /proc/self/fd, "
                "which a program with file capabilities has not; let systemd give them (AmbientCapabilities=)"
            ) from error

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _anonymous(name: str) -> int:
    """Raises OSError."""
    try:
        return os.memfd_create(name, _FLAGS | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, _FLAGS)
