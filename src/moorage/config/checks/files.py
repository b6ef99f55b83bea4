"""Files that settings name: looked at while the configuration is checked, read by whoever needs them."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

__all__ = ["read_regular", "unreadable"]

_LIMIT_BYTES: Final = 4 << 20


def unreadable(path: str) -> str:
    """Why a file cannot be read; "" when it can."""
    try:
        read_regular(path)
    except (OSError, ValueError) as error:
        return (error.strerror or str(error)) if isinstance(error, OSError) else "not a path"
    return ""


def read_regular(path: str) -> bytes:
    """Return the content of a regular file of at most 4 MiB.  Raises OSError, and ValueError for what is no path.

    A named pipe is refused without waiting for a writer, and a device, which may have no end, without reading.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _LIMIT_BYTES:
        raise OSError(errno.EFBIG, f"larger than {_LIMIT_BYTES} bytes")
    return data
