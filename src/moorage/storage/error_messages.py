"""Storage errors for the log: one sentence of one form, for object stores and for the operating system.

    PutObject docker/registry/... at https://s3.example, bucket images: 503 SlowDown: reduce your request rate
    write /var/lib/registry/docker/registry/...: No space left on device (ENOSPC): no space or no inodes are left

It names the operation, the object or the absolute path, and the cause.  It holds no secrets: callers pass neither
a URL's query nor a header.

Above: `storage/filesystem/threads.py`, `s3/errors.py`, `gcs/errors.py`, `azure/errors.py`.  The table errno,
status and text for the client: docs/operations.md, "Storage errors".
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import (
    StorageDenied,
    StorageError,
    StorageExhausted,
    StorageReadOnly,
    StorageUnavailable,
    TooManyOpenFiles,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["failed", "of_system"]

_KINDS: Final[Mapping[int, tuple[type[StorageUnavailable], str]]] = {
    errno.ENOSPC: (StorageExhausted, "no space or no inodes are left; see df and df -i"),
    errno.EDQUOT: (StorageExhausted, "the disk quota of the registry's user is used up"),
    errno.EFBIG: (StorageExhausted, "larger than the file system or the limit of the process (ulimit -f) allows"),
    errno.EMLINK: (StorageExhausted, "the file system allows no further entry in this directory"),
    errno.EROFS: (StorageReadOnly, "mount it writable; if an error made it read-only, see the kernel's log"),
    errno.EACCES: (StorageDenied, "check owner and mode of the path for the user that the registry runs as"),
    errno.EPERM: (StorageDenied, "check owner, mode and attributes (lsattr) of the path"),
    errno.EMFILE: (TooManyOpenFiles, "raise the limit of the process (LimitNOFILE=, ulimit -n)"),
    errno.ENFILE: (TooManyOpenFiles, "raise the limit of the host (sysctl fs.file-max)"),
    errno.ENOMEM: (StorageUnavailable, "the host has too little memory"),
    errno.EIO: (StorageUnavailable, "the device fails; see the kernel's log"),
    errno.ESTALE: (StorageUnavailable, "the file server does not know the file any more; mount it again"),
    errno.EXDEV: (StorageUnavailable, "blobs and repositories must be on one file system"),
}


def failed(
    operation: str, key: str, where: str, *, status: int, code: str, reason: str, exhausted: bool
) -> StorageError:
    """`status` 0: there was no answer.  `code` is the store's, "" where it gave none."""
    said = " ".join(text for text in (str(status or ""), code) if text) or "no answer"
    kind = StorageExhausted if exhausted else StorageUnavailable
    return kind(f"{operation} {key or '/'} at {where}: {said}: {reason}")


def of_system(error: OSError, operation: str, path: str) -> StorageUnavailable:
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
