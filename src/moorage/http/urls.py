"""`Location` headers of uploads, blobs and manifests.

Order: `http.host`; `http.relativeurls`; else the request, as described by the proxies (`Forwarded`,
then `X-Forwarded-Proto` and `-Host`, then `Host`).  A caller can only poison its own answers with these headers,
and nothing here is cached.  The configured prefix is always kept (the reference loses it with relative URLs).

Source: docs/reference/http-api.md, section 11; RFC 7239.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from moorage.http.headers import headers_of

if TYPE_CHECKING:
    from moorage.http.headers import Scope
    from moorage.http.options import HttpOptions

__all__ = ["location", "path_outside", "seen_from_outside"]

_FORWARDED: Final = re.compile(
    r'(?:^|[;,\s])(proto|host)\s*=\s*(?:"([^"]*)"|([^;,"\s]+))', re.ASCII | re.IGNORECASE
)
_HOST: Final = re.compile(r"[A-Za-z0-9._\[\]:-]{1,255}", re.ASCII)
_SCHEMES: Final = {"http", "https"}


def location(scope: Scope, options: HttpOptions, path: str) -> str:
    """Return the `Location` of `path`, which begins with `v2/`, without a leading slash."""
    if options.host:
        return urljoin(options.host, path)  # a path without a slash at its end does not count, as in Go
    if options.relativeurls:
        return f"{options.prefix}{path}"
    scheme, host = seen_from_outside(scope)
    return f"{scheme}://{host}{options.prefix}{path}" if host else f"{options.prefix}{path}"


def path_outside(options: HttpOptions, path: str) -> str:
    """Return `path`, which begins with `v2/`, as clients request it: below the path of `http.host` if any.

    So a proxy may take a path away before it asks us.  (The reference forgets that path in `Link`.)
    """
    below = urlsplit(options.host).path if options.host else ""
    return urljoin(below, path) if below.strip("/") else f"{options.prefix}{path}"


def seen_from_outside(scope: Scope) -> tuple[str, str]:
    """Return scheme and host that the client used, as reported by the proxies; host "" if unknown."""
    headers = headers_of(scope)
    own_scheme: str = scope.get("scheme", "http")
    own_host = headers.get(b"host", b"").decode("latin-1")
    scheme, host = own_scheme, own_host
    if (forwarded := headers.get(b"forwarded")) is not None:
        first = forwarded.decode("latin-1").partition(",")[0]
        found = {match[1].lower(): match[2] or match[3] or "" for match in _FORWARDED.finditer(first)}
        scheme, host = found.get("proto", scheme), found.get("host", host)
    else:
        if (value := headers.get(b"x-forwarded-proto")) is not None:
            scheme = value.decode("latin-1").partition(",")[0].strip()
        if (value := headers.get(b"x-forwarded-host")) is not None:
            host = value.decode("latin-1").partition(",")[0].strip()
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        scheme = own_scheme
    if not _HOST.fullmatch(host):
        host = own_host
    return scheme, host if _HOST.fullmatch(host) else ""
