"""Checks whether the root directory of the filesystem driver can be read and written.

Used by: `filesystem.py` (health checks) and `moorage.server.storage_monitor`.  Everything here blocks.

The write check creates a file of a fixed name, in the form of an unfinished file (`durable.py`), so that listings
ignore it and the next check replaces what a crash left behind.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from moorage.storage.durable import FILE_MODE, make_with_parents

__all__ = ["check_readable", "check_writable", "create"]

_LAYOUT: Final = "docker/registry/v2"
_WRITTEN: Final = ("repositories", "blobs")
_NAME: Final = "write-probe.00000000-0000-4000-8000-000000000000.tmp"
_BYTES: Final = bytes(4096)
"""One block: less may be stored in the inode, where a full disk goes unnoticed."""


def check_readable(root: str) -> None:
    """Raises FileNotFoundError if `root` does not exist, and OSError if it is no directory or cannot be searched.

    An empty directory is readable.  Looks up one name only, so that the cost does not depend on the content.
    """
    os.stat(f"{root}/.")
    with suppress(FileNotFoundError):
        os.stat(f"{root}/{_LAYOUT}/.")


def create(root: str) -> None:
    """Create `root` and what is missing above it; whatever exists stays as it is.  Raises OSError."""
    make_with_parents(root, [])


def check_writable(root: str) -> None:
    """Write a block, fsync and remove it, wherever new objects are created.  Raises OSError."""
    for directory in _directories(root):
        _write_one(f"{directory}/{_NAME}")


def _directories(root: str) -> list[str]:
    """The directories below which repositories and blobs are created; before the first push the one above them."""
    found = [path for name in _WRITTEN if os.path.isdir(path := f"{root}/{_LAYOUT}/{name}")]
    if found:
        return found
    path = root
    for name in _LAYOUT.split("/"):
        if not os.path.isdir(f"{path}/{name}"):
            break
        path = f"{path}/{name}"
    return [path]


def _write_one(path: str) -> None:
    # Without O_EXCL: two nodes that share the directory may check at the same time.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        written = os.pwrite(fd, _BYTES, 0)
        os.pwrite(fd, _BYTES[written:], written)
        os.fsync(fd)
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(path)
