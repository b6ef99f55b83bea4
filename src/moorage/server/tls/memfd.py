"""Sealed in-memory files: private data with a path, validated once and read by every worker.

The bytes are in a memfd_create(2) file that is sealed against writes, so all workers read exactly the data
that the master has validated, even if the original files change and a worker is restarted.  The last process that
holds the descriptor frees the memory.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from moorage.startup import StartupError
from moorage.system_errors import remedy_of

__all__ = ["SealedMemory", "read_sealed"]


_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_NOEXEC: Final = 0x8
"""MFD_NOEXEC_SEAL of Linux 6.3: required on hardened systems (vm.memfd_noexec=2), unknown to older kernels."""

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class SealedMemory:
    """`path` can be opened by this process and its children while this object exists.

    `name` is shown in /proc.  Raises `StartupError`.
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
            if remedy := remedy_of(error):
                raise StartupError(f"cannot keep certificates in memory: {error.strerror}: {remedy}") from error
            # A program with file capabilities (setcap) may not open its own descriptors again, see proc(5).
            raise StartupError(
                f"cannot keep certificates in memory: {error.strerror}: needs memfd_create and /proc/self/fd, "
                "which a program with file capabilities has not; let systemd give them (AmbientCapabilities=)"
            ) from error

    def close(self) -> None:
        """Close the descriptor in this process; those of other processes stay valid."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[SealedMemory], tuple[str, bytes]]:
        """Pickle by value; the copy is sealed again in the other process."""
        return SealedMemory, (self._name, read_sealed(self.descriptor))


def read_sealed(descriptor: int) -> bytes:
    """Return all bytes of a sealed file.  Raises OSError."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _anonymous(name: str) -> int:
    """Create the memory file.  Raises OSError."""
    try:
        return os.memfd_create(name, _FLAGS | _NOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, _FLAGS)
