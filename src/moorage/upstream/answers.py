"""Responses of a registry: unexpected statuses become errors, with the registry's own words.

A registry's words may repeat what was sent to it, so the secrets of the request are removed from them, and they
are shortened and kept to one line of ASCII.

Above: `client.py`, `tokens.py`.  Below: `errors.py`.
Source: distribution-spec 1.1 "Error Codes"; RFC 9110 section 10.2.3 (Retry-After), RFC 6750 section 3.
"""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from moorage.redaction import in_text
from moorage.upstream.errors import (
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from moorage.upstream.errors import UpstreamError
    from moorage.upstream.transport import UpstreamResponse

__all__ = ["failure", "parse_json", "retry_after_s"]

_BODY_LIMIT_BYTES: Final = 1 << 16
_WORDS_LIMIT_CHARS: Final = 500
_CODE_LIMIT_CHARS: Final = 100
_ENTRIES_SHOWN: Final = 5
_RATE_HEADERS: Final = ("ratelimit-limit", "ratelimit-remaining", "docker-ratelimit-source")
_SECRET_MINIMUM_CHARS: Final = 4
"""A shorter secret would be replaced within ordinary words."""

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_TOO_MANY_REQUESTS: Final = 429
_CLIENT_ERRORS: Final = range(400, 500)
_SERVER_ERRORS: Final = range(500, 600)


async def failure(
    response: UpstreamResponse,
    operation: str,
    *,
    registry: str,
    secrets: Iterable[str] = (),
    hint: str = "",
    now: Callable[[], float] = time.time,
) -> UpstreamError:
    """Read the body of a response with an unexpected status, and return the error for it; `hint` is a remedy."""
    status = response.status
    codes, words = await _words(response, secrets)
    shown = ": ".join(part for part in (f"{operation}: {status}", ", ".join(codes), words) if part)
    shown = f"{shown}; {hint}" if hint else shown
    if status == _TOO_MANY_REQUESTS:
        return UpstreamRateLimited(
            shown,
            registry=registry,
            retry_after_s=retry_after_s(response.headers, now()),
            codes=codes,
            words=words,
        )
    kind: type[UpstreamError] = UpstreamInvalid
    if status in {_UNAUTHORIZED, _FORBIDDEN}:
        kind = UpstreamDenied
    elif status == _NOT_FOUND:
        kind = UpstreamMissing
    elif status in _CLIENT_ERRORS:
        kind = UpstreamRefused
    elif status in _SERVER_ERRORS:
        kind = UpstreamUnreachable
    else:
        shown = f"{shown}: a status that the protocol does not have here"
    return kind(shown, registry=registry, status=status, codes=codes, words=words)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait by Retry-After, which is a number or a date; None without a readable one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def parse_json(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.  Raises `ValueError`."""
    try:
        document = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004  callers expect one error
    return document


async def _words(response: UpstreamResponse, secrets: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """Return the error codes and the message of the body, and for 429 the limits that the headers name."""
    body = await response.read(_BODY_LIMIT_BYTES)
    codes, words = _entries(body or b"")
    if response.status == _TOO_MANY_REQUESTS:
        limits = [f"{name}: {response.headers[name]}" for name in _RATE_HEADERS if name in response.headers]
        words = "; ".join(part for part in (words, *limits) if part)
    return tuple(_fit(code, secrets, _CODE_LIMIT_CHARS) for code in codes), _fit(words, secrets)


def _entries(body: bytes) -> tuple[list[str], str]:
    """Parse `{"errors": [{"code", "message", "detail"}]}`, or the `error_description`, `details` of token servers.

    Another body is returned as it is, unless it is a page of HTML.
    """
    try:
        document = parse_json(body)
    except ValueError:
        text = body.decode("utf-8", "replace").strip()
        return [], "" if text.startswith("<") else text
    entries = document.get("errors")
    if not isinstance(entries, list):
        texts = [document.get(key) for key in ("error", "error_description", "message", "details")]
        return [], ": ".join(text for text in texts if isinstance(text, str) and text)
    codes: list[str] = []
    messages: list[str] = []
    for entry in entries[:_ENTRIES_SHOWN]:
        if not isinstance(entry, dict):
            continue
        if isinstance(entry.get("code"), str):
            codes.append(entry["code"])
        parts = [entry.get("message"), entry.get("detail")]
        messages.append(": ".join(part for part in parts if isinstance(part, str) and part))
    return list(dict.fromkeys(codes)), "; ".join(filter(None, dict.fromkeys(messages)))


def _fit(text: str, secrets: Iterable[str], limit_chars: int = _WORDS_LIMIT_CHARS) -> str:
    """Return a text of the registry for a message: without secrets, one line of ASCII, not too long."""
    for secret in secrets:
        if len(secret) >= _SECRET_MINIMUM_CHARS:
            text = text.replace(secret, "-")
    text = in_text(" ".join(text.split()))
    shown = ascii(text if len(text) <= limit_chars else f"{text[:limit_chars]}...")[1:-1]
    return shown.replace("\\'", "'")
