"""Failed requests to object stores, in one form for all client libraries, and their messages for the log.

    exception of a library ── failure_of() of the store ──► Failure ── Location.error() ──► StorageUnavailable, ...

    PutObject docker/registry/... at https://s3.example, bucket images: 503 SlowDown: reduce your request rate

A message names the operation, the object, the endpoint, the bucket and the store's error code.  It holds no
secrets: `failure_of` leaves out a URL's query and headers.

Above: `s3/errors.py`, `gcs/errors.py`, `azure/errors.py`, each with the error codes of its store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from moorage.storage.driver import Key, StorageError, StorageExhausted, StorageUnavailable

__all__ = ["Failure", "FailureKind", "Location", "RequestFailed"]

_UNAUTHORIZED: Final = 401
_RANGE_NOT_SATISFIABLE: Final = 416


class FailureKind(Enum):
    """Consequence of a failure for the caller of a driver."""

    MISSING = "missing"
    """There is no such object; as far as the response shows, the bucket exists."""
    REFUSED = "refused"
    """A condition of the request did not hold."""
    TRANSIENT = "transient"
    """No response, an error inside the store, or rate limiting: worth another attempt."""
    EXHAUSTED = "exhausted"
    """No space is left, or a quota is used up."""
    UNSUPPORTED = "unsupported"
    """The store does not implement the request or a condition of it."""
    PERMANENT = "permanent"
    """Anything else: another attempt would fail likewise."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed request.  `status` is 0 if there was no response; `code` is the store's error code, "" for none.

    `hint` is shown to the operator instead of `text`, the store's own message, where it is not empty.
    """

    status: int
    code: str
    text: str
    kind: FailureKind = FailureKind.PERMANENT
    hint: str = ""

    @property
    def missing(self) -> bool:
        return self.kind is FailureKind.MISSING

    @property
    def refused(self) -> bool:
        return self.kind is FailureKind.REFUSED

    @property
    def transient(self) -> bool:
        return self.kind is FailureKind.TRANSIENT

    @property
    def unsupported(self) -> bool:
        return self.kind is FailureKind.UNSUPPORTED

    @property
    def unauthorized(self) -> bool:
        return self.status == _UNAUTHORIZED

    @property
    def range_outside(self) -> bool:
        """The requested range begins past the object's end."""
        return self.status == _RANGE_NOT_SATISFIABLE

    @property
    def outcome(self) -> str:
        """Code, or status, for a field of a log line."""
        return self.code or str(self.status)


class RequestFailed(Exception):
    """A request failed and is not repeated.

    `doubtful`: an earlier attempt ended without a response, so the store may have carried it out.
    """

    def __init__(self, failure: Failure, *, doubtful: bool = False) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.doubtful = doubtful


@dataclass(frozen=True, slots=True)
class Location:
    """Endpoint, bucket, and prefix of all keys: makes object names of keys, and messages for the log.

    `kind` is the store's word for a bucket.
    """

    endpoint: str
    bucket: str
    prefix: str = ""
    kind: str = "bucket"

    def __str__(self) -> str:
        return f"{self.endpoint}, {self.kind} {self.bucket}"

    def path(self, key: str) -> str:
        """Return the object's name in the bucket."""
        return f"{self.prefix}{key}"

    def key(self, path: str) -> Key:
        """Return the key of an object's name below the prefix."""
        return Key(path[len(self.prefix) :])

    def describe(self, key: str) -> str:
        return f"{self.path(key)} at {self}"

    def error(self, failure: Failure, operation: str, key: str = "") -> StorageError:
        """Return the driver's error for a failure other than a missing object; `key` "" is the bucket itself."""
        status = str(failure.status) if failure.status else ""
        response = " ".join(filter(None, (status, failure.code))) or "no answer"
        path = self.path(key) if key else "/"
        exhausted = failure.kind is FailureKind.EXHAUSTED
        kind = StorageExhausted if exhausted else StorageUnavailable
        return kind(f"{operation} {path} at {self}: {response}: {failure.hint or failure.text}")

    def closed(self) -> StorageError:
        """Return the error of a request after the connection was closed."""
        return StorageUnavailable(f"{self}: closed")
