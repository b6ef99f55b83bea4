"""`http.trustedproxies` and `http.cors`: which proxies are believed, and which pages of other origins may ask."""

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

from moorage.config.scalars import Reader
from moorage.config.sections.base import Flag, Period, Section, setting

if TYPE_CHECKING:
    from moorage.config.tree import Scalar

__all__ = ["EVERY_ORIGIN", "PROXY_WORDS", "Cors", "Proxy"]

PROXY_WORDS: Final = ("unix", "loopback", "private")
"""What `moorage.http.clients.SHORTHANDS` knows."""

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
    """As a browser sends it: scheme, host in lower case, and a port that is not the scheme's own."""
    text = scalar.text.strip()
    if text == EVERY_ORIGIN:
        return text
    wanted = "expected * or an origin such as https://ui.example.com:8443"
    if text == "null":
        raise ValueError(f"{wanted}; null is the origin of every page that hides its own")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(wanted) from error
    host = (parts.hostname or "").lower()
    if not parts.scheme or not host or "*" in host or "@" in parts.netloc or not text.isascii():
        raise ValueError(wanted)
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{wanted}, without a path or a slash at its end")
    host = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in {None, usual} else "")


def _read_method(scalar: "Scalar") -> str:
    method = scalar.text.upper()
    if method not in _METHODS:
        raise ValueError(f"expected one of {', '.join(_METHODS)}")
    return method


def _read_header_name(scalar: "Scalar") -> str:
    if _TOKEN.fullmatch(scalar.text) is None:
        raise ValueError("expected the name of a header")
    return scalar.text


Proxy = Annotated[str, Reader("address, network or `unix`, `loopback`, `private`", _read_proxy)]
_Origin = Annotated[str, Reader("origin", _read_origin)]
_Method = Annotated[str, Reader("method", _read_method)]
_HeaderName = Annotated[str, Reader("name of a header", _read_header_name)]


class Cors(Section):
    """Pages of other origins, such as a user interface for registries, that may ask by a browser."""

    origins: tuple[_Origin, ...] = setting(
        (), "Origins of these pages, such as `https://ui.example.com`; `*`: every page there is.", ours=True
    )
    credentials: Flag = setting(
        False,
        "The browser may send cookies and the password that it was told for this registry by itself. "
        "Not together with `*`. A page that asks for the password itself does not need it.",
        ours=True,
    )
    maxage: Period = setting(
        600.0, "How long a browser may remember what it was told.", unit="duration", ours=True
    )
    methods: tuple[_Method, ...] = setting(
        ("GET", "HEAD", "OPTIONS"), "Methods that these pages may use; add `DELETE` for pages that delete.",
        ours=True, shown="`GET`, `HEAD`, `OPTIONS`",
    )  # fmt: skip
    allowheaders: tuple[_HeaderName, ...] = setting(
        _ALLOWED, "Headers that these pages may send.", ours=True,
        shown=", ".join(f"`{name}`" for name in _ALLOWED),
    )  # fmt: skip
    exposeheaders: tuple[_HeaderName, ...] = setting(
        _EXPOSED, "Headers of answers that these pages may read.", ours=True,
        shown=", ".join(f"`{name}`" for name in _EXPOSED),
    )  # fmt: skip
