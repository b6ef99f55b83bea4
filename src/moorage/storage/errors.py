"""Errors of a storage driver.  `driver.py` exports them, and documents which method raises which.

    StorageError
    ├── KeyInvalid            the key's form; raised before any I/O
    ├── KeyMissing            no such object
    ├── ObjectTooLarge        read() past its limit
    ├── Conflict              write(when=...) found something else
    ├── RangeOutside          open() beyond the object's end
    ├── UploadMissing         no such upload
    ├── UploadBusy            another request is writing to the upload
    ├── UploadChanged         the stored bytes no longer match the given state
    └── StorageUnavailable    the back end failed; worth a retry, the log names the cause
        ├── StorageExhausted  full or over quota: worth a retry only after an operator acted
        │   └── StorageReadOnly   mounted read-only
        ├── StorageDenied     the registry's user has no permission
        └── TooManyOpenFiles  the process or the host has reached its limit of open files

The text of an error is for the log only.
"""

from __future__ import annotations

__all__ = [
    "Conflict",
    "KeyInvalid",
    "KeyMissing",
    "ObjectTooLarge",
    "RangeOutside",
    "StorageDenied",
    "StorageError",
    "StorageExhausted",
    "StorageReadOnly",
    "StorageUnavailable",
    "TooManyOpenFiles",
    "UploadBusy",
    "UploadChanged",
    "UploadMissing",
]


class StorageError(Exception):
    """Base class of all errors of a driver.

    `str()` is for the log only: the operation, the absolute path or the bucket and object, and the cause.
    """


class KeyInvalid(StorageError):
    """The key does not have the form of `Key`."""


class KeyMissing(StorageError):
    """No object is stored under the key."""


class ObjectTooLarge(StorageError):
    """The object is larger than the limit given to `read`."""


class Conflict(StorageError):
    """`write` found another state of the object than `when` demanded; nothing was written."""


class RangeOutside(StorageError):
    """The start of `open` is beyond the object's end."""


class UploadMissing(StorageError):
    """There is no upload at this home: it was finished, discarded, or never begun."""


class UploadBusy(StorageError):
    """Another request, of any process or node, is writing to the upload."""


class UploadChanged(StorageError):
    """The upload's stored bytes do not match the given state: another request extended or truncated it."""


class StorageUnavailable(StorageError):
    """The back end failed or did not respond; a later attempt may succeed."""


class StorageExhausted(StorageUnavailable):
    """No space, no inodes, over quota, or a file larger than the limit."""


class StorageReadOnly(StorageExhausted):
    """The file system is mounted read-only; reads succeed."""


class StorageDenied(StorageUnavailable):
    """The registry's user has no permission for the operation (EACCES, EPERM)."""


class TooManyOpenFiles(StorageUnavailable):
    """The limit of open files of the process (EMFILE) or the host (ENFILE) is reached; the storage is intact."""
