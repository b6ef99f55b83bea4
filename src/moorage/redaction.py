"""Redaction: removes secrets from text for logs, messages and mails.

This is the last line of defence: no code logs a password or a token on purpose.  But URLs contain them (the
state of an upload, signatures of buckets, tokens in a query, `user:password@`), and URLs appear in access logs,
in errors of libraries and in printed settings.

Source: docs/reference/auth.md, section 7; RFC 6750 section 5.3; RFC 3986 section 3.2.1.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["REDACTED", "in_text", "in_url"]

REDACTED: Final = "-"

_NAMES: Final = (
    "_state", "access_token", "id_token", "refresh_token", "token", "password", "passwd", "client_secret",
    "secret", "api_key", "apikey", "assertion", "code", "sig", "signature", "x-amz-signature",
    "x-amz-security-token", "x-amz-credential", "x-goog-signature", "x-goog-credential", "awsaccesskeyid",
)  # fmt: skip
_SPELLINGS: Final = "|".join(re.escape(name).replace("_", "(?:_|%5f)") for name in _NAMES)

_PARAMETER: Final = re.compile(rf"([?&;](?:{_SPELLINGS})=)[^&\s\"'\\<>#;]+", re.ASCII | re.IGNORECASE)
_USERINFO: Final = re.compile(r"(://[^/?#\s\"'\\@:]*:)[^/?#\s\"'\\]+(?=@)", re.ASCII)
_HEADER: Final = re.compile(
    r"(authorization\\?[\"']?\s*[:=,]\s*(?:b(?=\\?[\"']))?\\?[\"']?(?:(?:basic|bearer)\s+)?)[^\s\"'\\,)]+",
    re.ASCII | re.IGNORECASE,
)


def in_url(text: str) -> str:
    """Redact the target of a request or a Referer; called for every request."""
    if "?" in text:
        text = _PARAMETER.sub(rf"\1{REDACTED}", text)
    return _USERINFO.sub(rf"\1{REDACTED}", text) if "@" in text else text


def in_text(text: str) -> str:
    """Redact any other text, including the value after `Authorization:` or `Proxy-Authorization:`."""
    return _HEADER.sub(rf"\1{REDACTED}", in_url(text)) if "uthorization" in text.lower() else in_url(text)
