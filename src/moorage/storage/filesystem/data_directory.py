"""Checks whether the root directory of the filesystem driver is the one it was, and can be read and written.

A root that was seen once may disappear: moved away, or its volume unmounted.  Created again, or filled below the
bare mount point, it would be a registry without images that takes pushes.  So its identity (device and inode) is
remembered, and from then on

    the same identity                              it is the root
    another one that holds `docker/registry/v2`    it is the root: mounted again, or restored from a backup
    another one without it, or nothing             lost: nothing is created, and a missing key is no KeyMissing

until the process starts again.  Before it was seen once, a missing root is an empty store, which the first write
creates.

Used by: `driver.py` and `moorage.server.processes.storage_monitor`.  Everything here blocks.

The write check creates a file of a fixed name, in the form of an unfinished file (`durable.py`), so that listings
ignore it and the next check replaces what a crash left behind.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from moorage.storage.driver import StorageUnavailable
from moorage.storage.filesystem.durable import FILE_MODE, is_directory, make_with_parents
from moorage.storage.filesystem.errors import storage_error

__all__ = ["LAYOUT", "DataDirectory", "Identity", "check_readable", "check_writable", "create", "identify"]

Identity = tuple[int, int]
"""st_dev and st_ino."""

LAYOUT: Final = "docker/registry/v2"
_WRITTEN: Final = ("repositories", "blobs")
_NAME: Final = "write-probe.00000000-0000-4000-8000-000000000000.tmp"
_BYTES: Final = bytes(4096)
"""One block: less may be stored in the inode, where a full disk goes unnoticed."""


def identify(root: str, known: Identity | None) -> Identity:
    """Return the identity of `root`, which had the identity `known` (None: not seen yet).

    Raises FileNotFoundError if it does not exist, or if another directory that holds no registry is in its place;
    OSError if it is no directory or cannot be searched.
    """
    status = os.stat(f"{root}/.")
    identity = (status.st_dev, status.st_ino)
    if known not in {None, identity} and not is_directory(f"{root}/{LAYOUT}"):
        message = "another directory, which holds no registry, is in its place"
        raise FileNotFoundError(errno.ENOENT, message, root)
    return identity


def check_readable(root: str, known: Identity | None = None) -> Identity:
    """Return the identity of `root`, and raise as `identify` does.

    An empty directory is readable.  Looks up two names only, so that the cost does not depend on the content.
    """
    identity = identify(root, known)
    with suppress(FileNotFoundError):
        os.stat(f"{root}/{LAYOUT}/.")
    return identity


class DataDirectory:
    """Root directory of one driver; its identity is recorded when the driver is made, or when it first exists.

    May be used from several threads.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: Identity | None = None
        with suppress(OSError):
            self._identity = identify(path, None)

    def check(self) -> None:
        """Return if the root is there, or was never seen.  Raises StorageUnavailable if it was lost.

        One stat, 1 us; called when an object was not found, never when it was.
        """
        known = self._identity  # as it was before the look: another thread may create the root right after it
        try:
            self._identity = identify(self.path, known)
        except (FileNotFoundError, NotADirectoryError) as error:
            if known is not None:
                code = errno.errorcode[error.errno or errno.ENOENT]
                raise StorageUnavailable(
                    f"stat {self.path}: {error.strerror} ({code}): the data directory has disappeared; "
                    "mount or restore it"
                ) from error
        except OSError as error:
            raise storage_error(error, "stat", self.path) from error

    def create(self) -> None:
        """Create the root and what is missing above it if it was never seen; the next check learns its identity.

        Raises StorageUnavailable if it was lost.
        """
        self.check()
        if self._identity is None:
            create(self.path)


def create(root: str) -> None:
    """Create `root` and missing directories above it; existing ones are not changed.  Raises OSError."""
    make_with_parents(root, [])


def check_writable(root: str) -> None:
    """Write a block, fsync and remove it, wherever new objects are created.  Raises OSError."""
    for directory in _directories(root):
        _write_one(f"{directory}/{_NAME}")


def _directories(root: str) -> list[str]:
    """Return the directories below which repositories and blobs are created, or before the first push the root."""
    found = [path for name in _WRITTEN if os.path.isdir(path := f"{root}/{LAYOUT}/{name}")]
    if found:
        return found
    path = root
    for name in LAYOUT.split("/"):
        if not os.path.isdir(f"{path}/{name}"):
            break
        path = f"{path}/{name}"
    return [path]


def _write_one(path: str) -> None:
    # Without O_EXCL: two nodes that share the directory may check at the same time.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK, FILE_MODE)
    try:
        written = os.pwrite(fd, _BYTES, 0)
        os.pwrite(fd, _BYTES[written:], written)
        os.fsync(fd)
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(path)
