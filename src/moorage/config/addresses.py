"""Parsers of addresses in settings: `host:port` and URLs."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

__all__ = ["UNSPECIFIED", "host_and_port", "is_address", "is_web_address"]

UNSPECIFIED: Final = frozenset({"", "::", "0.0.0.0"})  # noqa: S104  read from settings
"""Hosts that mean every interface."""

_PORT_LIMIT: Final = 65_535


def host_and_port(text: str) -> tuple[str, int]:
    """Parse `host:port`, `:port` or `[v6]:port` as Go's net package does.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is None or int(port) > _PORT_LIMIT:
        raise ValueError("expected host:port or :port with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)  # its ValueError has the reason
    elif ":" in host or re.search(r"[\s/\[\]]", host):
        raise ValueError("expected host:port, with an IPv6 address in brackets")
    return host, int(port)


def is_address(text: str, *, scheme: bool) -> bool:
    """Return whether this is `http(s)://host[:port]`; if not `scheme`, it is optional, and a path may follow."""
    try:
        parts = urlsplit(text if "://" in text or scheme else f"https://{text}")
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
    return whole and not parts.query and not parts.fragment and not (scheme and parts.path not in {"", "/"})


def is_web_address(text: str, schemes: tuple[str, ...] = ("http", "https")) -> bool:
    """Return whether this is a URL with one of the schemes and a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
