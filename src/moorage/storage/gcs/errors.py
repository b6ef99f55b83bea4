"""Failures of Google Cloud Storage: error reasons, and exceptions as `Failure` values.

A 404 may be of the object or of the bucket; only the text of the response distinguishes them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from moorage.storage.object_store.errors import Failure, FailureKind

__all__ = ["failure_of"]

_NOT_FOUND: Final = 404
_REFUSED: Final = 412
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_TRANSIENT: Final = {408, 429}
_EXHAUSTED: Final = {"quotaExceeded", "dailyLimitExceeded"}
_LONGEST: Final = 300

_HINTS: Final = {
    _UNAUTHORIZED: "the credentials are missing, expired or not valid",
    _FORBIDDEN: "the credentials may not do this (storage.objects.create, delete, get and list are needed, as the "
    "role Storage Object User has them; without list, an object that is missing is answered so too)",
}


def failure_of(error: BaseException) -> Failure:
    """Return the failure of an exception of aiohttp, of the library for credentials, or of the system."""
    status: Any = getattr(error, "status", 0)
    if isinstance(status, int) and status:
        return _answered(status, str(getattr(error, "message", "")))
    import aiohttp

    network = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError, asyncio.TimeoutError)
    text = str(error).split("\n", 1)[0].partition("?")[0][:_LONGEST] or type(error).__name__
    if isinstance(error, network):
        return Failure(0, "", text, FailureKind.TRANSIENT)
    return Failure(0, type(error).__name__, text)


def _answered(status: int, message: str) -> Failure:
    """`message`: the reason phrase, a colon, and the answer's body, as `gcloud.aio.auth` puts them together."""
    phrase, _, body = message.partition(": ")
    reason, text = "", body or phrase
    try:
        error: Any = json.loads(body)["error"]
        if isinstance(error, dict):
            text = str(error.get("message", "")) or phrase
            first: Any = (error.get("errors") or [{}])[0]
            reason = str(first.get("reason", ""))
        else:  # the servers that give tokens: {"error": "invalid_grant", "error_description": ...}
            reason, text = str(error), str(json.loads(body).get("error_description", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    reason, text = reason[:80], " ".join(text.split())[:_LONGEST]
    if status == _NOT_FOUND and "bucket does not exist" in text.lower():
        return Failure(status, reason, text, hint="there is no such bucket; it must be made beforehand")
    return Failure(status, reason, text, _kind(status, reason), _HINTS.get(status, ""))


def _kind(status: int, reason: str) -> FailureKind:
    if status == _NOT_FOUND:
        return FailureKind.MISSING
    if status == _REFUSED:
        return FailureKind.REFUSED
    if reason in _EXHAUSTED:
        return FailureKind.EXHAUSTED
    if status in _TRANSIENT or status >= 500:  # noqa: PLR2004  HTTP
        return FailureKind.TRANSIENT
    return FailureKind.PERMANENT
