"""`host:port` as settings have it."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["host_and_port"]

_PORT_LIMIT: Final = 65_535


def host_and_port(text: str) -> tuple[str, int]:
    """`host:port`, `:port` or `[v6]:port`, as Go's net package takes it.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is None or int(port) > _PORT_LIMIT:
        raise ValueError("expected host:port or :port with a port from 0 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)  # its ValueError says what is wrong
    elif ":" in host or re.search(r"[\s/\[\]]", host):
        raise ValueError("expected host:port, with an IPv6 address in brackets")
    return host, int(port)
