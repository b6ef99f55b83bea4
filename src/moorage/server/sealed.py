"""Private bytes that have a path: what is checked once and read again by every worker, without a file on disk.

The bytes lie in anonymous memory that nobody can write to any more, memfd_create(2), so all workers of one plan
read exactly what the master has checked, however the files they came from change in between, and whenever a worker
is started again.  The memory goes with the last process that holds it.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

__all__ = ["Sealed"]

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Sealed:
    """`path` can be opened by this process and those that it forks, for as long as this object lives.

    `name` is what /proc shows.  Raises OSError.
    """

    __slots__ = ("_descriptor", "path")

    def __init__(self, name: str, data: bytes) -> None:
        self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.path = f"/proc/self/fd/{self._descriptor}"
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def __del__(self) -> None:
        os.close(self._descriptor)
