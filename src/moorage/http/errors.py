"""The table error → status, and the one place where errors become responses.

Source: distribution-spec 1.1 "Error Codes"; docs/reference/http-api.md, section 3.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from moorage import errors
from moorage.http.reply import Reply, encoded

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STATUS", "status_of", "to_response", "unexpected"]

_TYPE: Final = (b"content-type", b"application/json")
# `json.dumps` makes an encoder for each call.
_json: Final = json.JSONEncoder(separators=(",", ":")).encode

STATUS: Final[Mapping[type[errors.RegistryError], int]] = {
    errors.BlobUnknown: 404,
    errors.BlobUploadInvalid: 404,
    errors.BlobUploadUnknown: 404,
    errors.Denied: 403,
    errors.DigestInvalid: 400,
    errors.LoopDetected: 508,
    errors.ManifestBlobUnknown: 400,
    errors.ManifestInvalid: 400,
    errors.ManifestTooLarge: 413,
    errors.ManifestUnknown: 404,
    errors.MethodUnknown: 405,
    errors.NameInvalid: 400,
    errors.NameUnknown: 404,
    errors.NotAName: 404,
    errors.NotATag: 404,
    errors.PageSizeInvalid: 400,
    errors.PreconditionFailed: 412,
    errors.Protected: 403,
    errors.QuotaExceeded: 403,
    errors.RangeInvalid: 416,
    errors.RangeNotSatisfiable: 416,
    errors.RequestTimeout: 408,
    errors.RouteUnknown: 404,
    errors.SizeInvalid: 400,
    errors.StorageFull: 507,
    errors.TagInvalid: 400,
    errors.TooManyRequests: 429,
    errors.TokenRequestInvalid: 400,
    errors.TooManyTags: 414,
    errors.Unauthorized: 401,
    errors.Unavailable: 503,
    errors.Unsupported: 405,
    errors.MirrorReadOnly: 405,
    errors.UpstreamDenies: 403,
    errors.UpstreamFailed: 502,
    errors.UpstreamLimits: 429,
}


def status_of(error: errors.RegistryError) -> int:
    return STATUS[type(error)]


def to_response(
    error: errors.RegistryError,
    headers: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
) -> Reply:
    """Return the JSON response; `headers` are added by the endpoint (an upload's Location, a blob's size).

    `beside` are members next to `errors`: those of OAuth 2.0 at endpoints that support it.
    """
    return _envelope(status_of(error), error.entries(), headers, beside or {})


def unexpected() -> Reply:
    """Return the response to an unexpected exception, which is only in the log."""
    return _envelope(500, [{"code": "UNKNOWN", "message": "unknown error"}], None, {})


def _envelope(
    status: int, entries: list[dict[str, Any]], headers: Mapping[str, str] | None, beside: Mapping[str, str]
) -> Reply:
    body = _json({"errors": entries, **beside}).encode() + b"\n"
    length = (b"content-length", b"%d" % len(body))
    return Reply(status, [*encoded(headers or {}), length, _TYPE], body)
