"""What went wrong at Google Cloud Storage, and what it means to a driver's caller.

The text that ends up in our log names the operation, the key, the endpoint, the bucket and Google's own reason.
It never holds a URL's query or a header, so no token, no signature and no address of an upload session.

Google says which thing is missing only in words: a 404 may be of the object or of the bucket.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.error_messages import failed

if TYPE_CHECKING:
    from moorage.storage.driver import StorageError

__all__ = ["Failure", "Place", "failure_of"]

_NOT_FOUND: Final = 404
_REFUSED: Final = 412
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_OUTSIDE: Final = 416
_TRANSIENT: Final = {408, 429}
_EXHAUSTED: Final = {"quotaExceeded", "dailyLimitExceeded"}
_LONGEST: Final = 300

_HINTS: Final = {
    _UNAUTHORIZED: "the credentials are missing, expired or not valid",
    _FORBIDDEN: "the credentials may not do this (storage.objects.create, delete, get and list are needed, as the "
    "role Storage Object User has them; without list, an object that is missing is answered so too)",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """`status` 0: there was no answer.  `reason` is Google's word for it, "" where it gave none."""

    status: int
    reason: str
    text: str
    passing: bool = False
    """Without an answer: whether it was the network, and not us."""

    @property
    def no_bucket(self) -> bool:
        return self.status == _NOT_FOUND and "bucket does not exist" in self.text.lower()

    @property
    def missing(self) -> bool:
        """The object is not there, and the bucket is."""
        return self.status == _NOT_FOUND and not self.no_bucket

    @property
    def refused(self) -> bool:
        """A condition did not hold."""
        return self.status == _REFUSED

    @property
    def unauthorized(self) -> bool:
        return self.status == _UNAUTHORIZED

    @property
    def outside(self) -> bool:
        """No such range."""
        return self.status == _OUTSIDE

    @property
    def exhausted(self) -> bool:
        return self.reason in _EXHAUSTED

    @property
    def transient(self) -> bool:
        """Worth another try: no answer, Google's own trouble, or a request to come later."""
        if not self.status:
            return self.passing
        return (self.status in _TRANSIENT or self.status >= 500) and not self.exhausted  # noqa: PLR2004  HTTP


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go: for messages."""

    endpoint: str
    bucket: str

    def __str__(self) -> str:
        return f"{self.endpoint}, bucket {self.bucket}"

    def error(self, failure: Failure, operation: str, key: str) -> StorageError:
        hint = _HINTS.get(failure.status, failure.text)
        if failure.no_bucket:
            hint = "there is no such bucket; it must be made beforehand"
        return failed(
            operation,
            key,
            str(self),
            status=failure.status,
            code=failure.reason,
            reason=hint,
            exhausted=failure.exhausted,
        )


def failure_of(error: BaseException) -> Failure:
    """For an exception of aiohttp, of the library for credentials, or of the system."""
    status: Any = getattr(error, "status", 0)
    if isinstance(status, int) and status:
        return _answered(status, str(getattr(error, "message", "")))
    import aiohttp

    network = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError, asyncio.TimeoutError)
    text = str(error).split("\n", 1)[0].partition("?")[0][:_LONGEST] or type(error).__name__
    return Failure(0, "" if isinstance(error, network) else type(error).__name__, text, isinstance(error, network))


def _answered(status: int, message: str) -> Failure:
    """`message`: the reason phrase, a colon, and the answer's body, as `gcloud.aio.auth` puts them together."""
    phrase, _, body = message.partition(": ")
    reason, text = "", body or phrase
    try:
        said: Any = json.loads(body)["error"]
        if isinstance(said, dict):
            text = str(said.get("message", "")) or phrase
            first: Any = (said.get("errors") or [{}])[0]
            reason = str(first.get("reason", ""))
        else:  # the servers that give tokens: {"error": "invalid_grant", "error_description": ...}
            reason, text = str(said), str(json.loads(body).get("error_description", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    return Failure(status, reason[:80], " ".join(text.split())[:_LONGEST])
