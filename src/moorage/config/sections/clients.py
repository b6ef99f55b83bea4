"""`http.trustedproxies` and `http.cors`: trusted proxies, and cross-origin requests of browsers."""

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from moorage.config.scalars import ScalarReader
from moorage.config.sections.base import Flag, Period, Section, setting

if TYPE_CHECKING:
    from moorage.config.tree import Scalar

__all__ = ["EVERY_ORIGIN", "PROXY_WORDS", "Cors", "Proxy"]

PROXY_WORDS: Final = ("unix", "loopback", "private")
"""The keys of `moorage.http.clients.SHORTHANDS`."""

EVERY_ORIGIN: Final = "*"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
_EXPOSED: Final = (
    "Accept-Ranges", "Allow", "Content-Length", "Content-Range", "Docker-Content-Digest",
    "Docker-Distribution-API-Version", "Docker-Upload-UUID", "ETag", "Link", "Location",
    "OCI-Chunk-Min-Length", "OCI-Filters-Applied", "OCI-Subject", "OCI-Tag", "Range", "Retry-After", "Warning",
    "WWW-Authenticate", "X-Request-Id",
)  # fmt: skip
_ALLOWED: Final = (
    "Accept", "Authorization", "Cache-Control", "Content-Range", "Content-Type", "If-Match", "If-Modified-Since",
    "If-None-Match", "Range", "X-Request-Id", "X-Requested-With",
)  # fmt: skip


def _read_proxy(scalar: "Scalar") -> str:
    text = scalar.text.strip()
    if text in PROXY_WORDS:
        return text
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        detail = " (an address within the network has bits set that its length leaves out)"
        hint = detail if "host bits" in str(error) else ""
        raise ValueError(
            f"expected an address, a network such as 10.0.0.0/8, or unix, loopback or private{hint}"
        ) from error


def _read_origin(scalar: "Scalar") -> str:
    """Return the origin as browsers send it: scheme, host in lower case, and a port other than the default."""
    text = scalar.text.strip()
    if text == EVERY_ORIGIN:
        return text
    expected = "expected * or an origin such as https://ui.example.com:8443"
    if text == "null":
        raise ValueError(f"{expected}; null is the origin of every page that hides its origin")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(expected) from error
    host = (parts.hostname or "").lower()
    if not parts.scheme or not host or "*" in host or "@" in parts.netloc or not text.isascii():
        raise ValueError(expected)
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{expected}, without a path or a slash at its end")
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in {None, default} else "")


def _read_method(scalar: "Scalar") -> str:
    method = scalar.text.upper()
    if method not in _METHODS:
        raise ValueError(f"expected one of {', '.join(_METHODS)}")
    return method


def _read_header_name(scalar: "Scalar") -> str:
    if _TOKEN.fullmatch(scalar.text) is None:
        raise ValueError("expected the name of a header")
    return scalar.text


Proxy = Annotated[str, ScalarReader("address, network or `unix`, `loopback`, `private`", _read_proxy)]
_Origin = Annotated[str, ScalarReader("origin", _read_origin)]
_Method = Annotated[str, ScalarReader("method", _read_method)]
_HeaderName = Annotated[str, ScalarReader("name of a header", _read_header_name)]


class Cors(Section):
    """Cross-origin requests of browsers (CORS), as from a user interface for registries."""

    origins: tuple[_Origin, ...] = setting(
        (), "Allowed origins, such as `https://ui.example.com`; `*`: all.", own=True
    )
    credentials: Flag = setting(
        False,
        "Allow browsers to send cookies and the stored password for this registry. "
        "Cannot be combined with `*`. Not needed by pages that ask for the password themselves.",
        own=True,
    )
    maxage: Period = setting(600.0, "How long browsers may cache the permission.", unit="duration", own=True)
    methods: tuple[_Method, ...] = setting(
        ("GET", "HEAD", "OPTIONS"), "Allowed methods; add `DELETE` for pages that delete.",
        own=True, shown="`GET`, `HEAD`, `OPTIONS`",
    )  # fmt: skip
    allowheaders: tuple[_HeaderName, ...] = setting(
        _ALLOWED, "Request headers that are allowed.", own=True,
        shown=", ".join(f"`{name}`" for name in _ALLOWED),
    )  # fmt: skip
    exposeheaders: tuple[_HeaderName, ...] = setting(
        _EXPOSED, "Response headers that pages may read.", own=True,
        shown=", ".join(f"`{name}`" for name in _EXPOSED),
    )  # fmt: skip
