"""ClientHello: the first message of a TLS client, parsed before the handshake for its server name and protocols.

Source: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3 (server_name), RFC 7301 (ALPN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ACME_TLS", "LIMIT_BYTES", "ClientHello", "NotTls", "alert", "parse"]

ACME_TLS: Final = b"acme-tls/1"
LIMIT_BYTES: Final = 64 << 10
"""More than any client sends: with keys against quantum computers they come to 2 KB."""

INTERNAL_ERROR: Final = 80
UNRECOGNIZED_NAME: Final = 112

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_RECORD_LIMIT: Final = (1 << 14) + 256


class NotTls(ValueError):
    """The bytes do not begin a TLS connection."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`host` in lower case, empty without a server name; `protocols` as offered by ALPN."""

    host: str
    protocols: tuple[bytes, ...]


def parse(data: bytes) -> ClientHello | None:
    """Parse the beginning of a connection; return None if more bytes are needed.  Raises `NotTls`."""
    message = _message(data)
    return None if message is None else _hello(message)


def alert(description: int) -> bytes:
    """Return a fatal alert, which may be sent before any other message."""
    return bytes([21, 3, 3, 0, 2, 2, description])


def _message(data: bytes) -> bytes | None:
    """Return the body of the ClientHello, which may be spread over several records."""
    found = b""
    at = 0
    while True:
        if data[at : at + 1] not in {b"", bytes([_HANDSHAKE])}:
            raise NotTls("not a handshake")
        if len(data) < at + 5:
            return None
        size = int.from_bytes(data[at + 3 : at + 5])
        if data[at + 1] != 3 or not 0 < size <= _RECORD_LIMIT:  # noqa: PLR2004  every version of TLS says 3
            raise NotTls("not a record of TLS")
        found += data[at + 5 : at + 5 + size]
        if found[0:1] not in {b"", bytes([_CLIENT_HELLO])}:
            raise NotTls("not a ClientHello")
        at += 5 + size
        if len(found) >= 4:  # noqa: PLR2004  type and length
            whole = 4 + int.from_bytes(found[1:4])
            if whole > LIMIT_BYTES:
                raise NotTls("too long")
            if len(found) >= whole:
                return found[4:whole]
        if len(data) <= at:
            return None


def _hello(message: bytes) -> ClientHello:
    reader = _Reader(message)
    reader.take(2 + 32)
    reader.vector(1)  # session
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression
    host = ""
    protocols: tuple[bytes, ...] = ()
    extensions = _Reader(reader.vector(2) if reader else b"")
    while extensions:
        kind, body = extensions.number(2), _Reader(extensions.vector(2))
        if kind == _SERVER_NAME and not host:
            host = _host(_Reader(body.vector(2)))
        elif kind == _ALPN:
            protocols = tuple(_all(_Reader(body.vector(2))))
    return ClientHello(host, protocols)


def _host(names: _Reader) -> str:
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == 0:
            return name.decode("ascii", "replace").lower()
    return ""


def _all(names: _Reader) -> list[bytes]:
    found = []
    while names:
        found.append(names.vector(1))
    return found


class _Reader:
    """Consumes bytes from the front; true while some are left.  Every method raises `NotTls` at the end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise NotTls("cut short")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))
