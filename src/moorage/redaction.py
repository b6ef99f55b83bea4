"""What must not be read in a log, a message or a mail: struck out of text, whoever wrote it there.

The last line of defence, not the first: nothing hands a password or a token to a log on purpose.  But URLs carry
them (the state of an upload, signatures of buckets, tokens in a query, `user:password@`), and URLs end in lines
about requests, in the errors of libraries and in the settings people print.

Source: docs/reference/auth.md, section 7; RFC 6750 section 5.3; RFC 3986 section 3.2.1.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["STRUCK_OUT", "in_text", "in_url"]

STRUCK_OUT: Final = "-"

_NAMES: Final = (
    "_state", "access_token", "id_token", "refresh_token", "token", "password", "passwd", "client_secret",
    "secret", "api_key", "apikey", "assertion", "code", "sig", "signature", "x-amz-signature",
    "x-amz-security-token", "x-amz-credential", "x-goog-signature", "x-goog-credential", "awsaccesskeyid",
)  # fmt: skip
_SPELT: Final = "|".join(re.escape(name).replace("_", "(?:_|%5f)") for name in _NAMES)

_PARAMETER: Final = re.compile(rf"([?&;](?:{_SPELT})=)[^&\s\"'\\<>#;]+", re.ASCII | re.IGNORECASE)
_USERINFO: Final = re.compile(r"(://[^/?#\s\"'\\@:]*:)[^/?#\s\"'\\]+(?=@)", re.ASCII)
_HEADER: Final = re.compile(
    r"(authorization\\?[\"']?\s*[:=,]\s*(?:b(?=\\?[\"']))?\\?[\"']?(?:(?:basic|bearer)\s+)?)[^\s\"'\\,)]+",
    re.ASCII | re.IGNORECASE,
)


def in_url(text: str) -> str:
    """For the target of a request or a Referer, which are looked at for every request."""
    if "?" in text:
        text = _PARAMETER.sub(rf"\1{STRUCK_OUT}", text)
    return _USERINFO.sub(rf"\1{STRUCK_OUT}", text) if "@" in text else text


def in_text(text: str) -> str:
    """For anything else: also what follows `Authorization:` or `Proxy-Authorization:`."""
    return _HEADER.sub(rf"\1{STRUCK_OUT}", in_url(text)) if "uthorization" in text.lower() else in_url(text)
