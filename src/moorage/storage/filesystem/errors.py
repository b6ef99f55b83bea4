"""Storage errors of failed system calls: their classes, and one sentence for the log with a remedy.

    write /var/lib/registry/docker/registry/...: No space left on device (ENOSPC): no space or no inodes are left

The table errno, status and text for the client: docs/operations.md, "Storage errors".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import (
    StorageDenied,
    StorageExhausted,
    StorageReadOnly,
    StorageUnavailable,
    TooManyOpenFiles,
)
from moorage.system_errors import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorage.storage.driver import StorageError

__all__ = ["ABSENT_ERRORS", "storage_error", "translated", "translating"]

ABSENT_ERRORS: Final = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
"""ELOOP: a symbolic link loop; ENXIO: a socket in the place of a file."""

_KINDS: Final[Mapping[int, tuple[type[StorageUnavailable], str]]] = {
    errno.ENOSPC: (StorageExhausted, "no space or no inodes are left; see df and df -i"),
    errno.EDQUOT: (StorageExhausted, "the disk quota of the registry's user is used up"),
    errno.EFBIG: (StorageExhausted, "larger than the file system or the limit of the process (ulimit -f) allows"),
    errno.EMLINK: (StorageExhausted, "the file system allows no further entry in this directory"),
    errno.EROFS: (StorageReadOnly, "mount it writable; if an error made it read-only, see the kernel's log"),
    errno.EACCES: (StorageDenied, "check owner and mode of the path for the user that the registry runs as"),
    errno.EPERM: (StorageDenied, "check owner, mode and attributes (lsattr) of the path"),
    errno.EMFILE: (TooManyOpenFiles, REMEDIES[errno.EMFILE]),
    errno.ENFILE: (TooManyOpenFiles, REMEDIES[errno.ENFILE]),
    errno.ENOMEM: (StorageUnavailable, REMEDIES[errno.ENOMEM]),
    errno.EIO: (StorageUnavailable, "the device fails; see the kernel's log"),
    errno.ESTALE: (StorageUnavailable, "the file server does not know the file any more; mount it again"),
    errno.EXDEV: (StorageUnavailable, "blobs and repositories must be on one file system"),
}


def storage_error(error: OSError, operation: str, path: str) -> StorageUnavailable:
    """Return the storage error for a failed system call.

    `path` is the absolute path of the operation; where `error` names another one (a temporary file, a directory to
    be made), that one is reported as well.
    """
    number = error.errno or 0
    kind, hint = _KINDS.get(number, (StorageUnavailable, ""))
    if isinstance(error.filename, str) and error.filename.startswith("/"):
        path = error.filename if error.filename.startswith(path) else f"{path}: {error.filename}"
    text = f"{operation} {path}: {error.strerror or error} ({errno.errorcode.get(number, number)})"
    return kind(f"{text}: {hint}" if hint else text)


class translating:  # noqa: N801  used like a function; a class costs a fifth of a generator on every request
    """Translate OSError into storage errors.

    `operation` and the absolute `path` are for the log.  `missing` gets `key` and returns the error for an
    absent file, or raises a more specific one; None: an absent file is a failure like any other.
    """

    __slots__ = ("_key", "_missing", "_operation", "_path")

    def __init__(self, operation: str, key: str, path: str, missing: Callable[[str], StorageError] | None) -> None:
        self._operation = operation
        self._key = key
        self._path = path
        self._missing = missing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise translated(error, self._operation, self._key, self._path, self._missing) from error


def translated(
    error: OSError, operation: str, key: str, path: str, missing: Callable[[str], StorageError] | None
) -> StorageError:
    """Return the storage error for an OSError, as `translating` raises it; for the hottest paths."""
    if missing is not None and error.errno in ABSENT_ERRORS:
        return missing(key)
    return storage_error(error, operation, path)
