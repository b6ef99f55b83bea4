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

__all__ = ["Sealed", "read_sealed"]


_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_NOEXEC: Final = 0x8
"""MFD_NOEXEC_SEAL of Linux 6.3: without, hardened systems (vm.memfd_noexec=2) refuse; older do not know it."""

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


_USED_UP: Final = {
    errno.EMFILE: "raise the limit of open files of the process (LimitNOFILE=, ulimit -n)",
    errno.ENFILE: "raise the limit of open files of the host (sysctl fs.file-max)",
    errno.ENOMEM: "the host, or the control group, has too little memory",
}


class Sealed:
    """`path` can be opened by this process and those that it forks, for as long as this object lives.

    `name` is what /proc shows.  Raises `Cannot`.
    """

    __slots__ = ("_name", "descriptor", "path")

    def __init__(self, name: str, data: bytes) -> None:
        self.descriptor = -1
        self._name = name
        try:
            self.descriptor = _anonymous(name)
            self.path = f"/proc/self/fd/{self.descriptor}"
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            os.close(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in _USED_UP:
                raise Cannot(
                    f"cannot keep certificates in memory: {error.strerror}: {_USED_UP[error.errno]}"
                ) from error
            # A program with file capabilities (setcap) may not open its own descriptors again, see proc(5).
            raise Cannot(
                f"cannot keep certificates in memory: {error.strerror}: needs memfd_create and /proc/self/fd, "
                "which a program with file capabilities has not; let systemd give them (AmbientCapabilities=)"
            ) from error

    def close(self) -> None:
        """Release the memory in this process; others that hold it go on."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Sealed], tuple[str, bytes]]:
        """Travel to another process as a copy, which is sealed again there."""
        return Sealed, (self._name, read_sealed(self.descriptor))


def read_sealed(descriptor: int) -> bytes:
    """Return all bytes of a sealed file.  Raises OSError."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _anonymous(name: str) -> int:
    """Raises OSError."""
    try:
        return os.memfd_create(name, _FLAGS | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, _FLAGS)
