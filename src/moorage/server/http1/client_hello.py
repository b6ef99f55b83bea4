"""ClientHello: the first message of a TLS client, parsed before the handshake for its server name and protocols.

OpenSSL parses it again and decides whether it is valid; `NotTls` means only that it cannot be parsed here.

Source: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3 (server_name), RFC 7301 (ALPN).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["ACME_TLS", "HTTP", "LIMIT_BYTES", "Assembler", "ClientHello", "NotTls", "alert", "parse"]

ACME_TLS: Final = b"acme-tls/1"
HTTP: Final = (b"http/1.1", b"http/1.0")
"""The protocols that are served, the preferred one first; `curl --http1.0` offers the second only."""

LIMIT_BYTES: Final = 16 << 10
"""More than any client sends: with post-quantum keys they have 2 KB.

In records of one byte each a connection takes six times as much memory.
"""

INTERNAL_ERROR: Final = 80
UNRECOGNIZED_NAME: Final = 112
NO_APPLICATION_PROTOCOL: Final = 120

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_MAJOR: Final = 3
"""Major version in the head of a record, for all versions of TLS."""

_RECORD_HEAD_BYTES: Final = 5
_RECORD_LIMIT: Final = (1 << 14) + 256
_MESSAGE_HEAD_BYTES: Final = 4


class NotTls(ValueError):
    """The bytes are not the start of a TLS connection."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """`host` in lower case, empty without a server name; `protocols` as offered by ALPN."""

    host: str
    protocols: tuple[bytes, ...]


def parse(data: bytes) -> ClientHello | None:
    """Parse the beginning of a connection; return None if more bytes are needed.  Raises `NotTls`."""
    return Assembler().feed(data)


def alert(description: int) -> bytes:
    """Return a fatal alert record, valid before any other message."""
    return bytes([21, 3, 3, 0, 2, 2, description])


class Assembler:
    """Assembles the ClientHello from the records at the beginning of a connection, received in pieces.

    Each byte is parsed once, also with pieces and records of one byte.
    """

    __slots__ = ("_message", "_unread")

    def __init__(self) -> None:
        self._message = bytearray()
        self._unread = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """Parse the next bytes; return None until the ClientHello is complete.  Raises `NotTls`."""
        self._unread += data
        while self._unread:
            if self._unread[0] != _HANDSHAKE:
                raise NotTls("not a handshake")
            if len(self._unread) < _RECORD_HEAD_BYTES:
                return None
            end = _RECORD_HEAD_BYTES + int.from_bytes(self._unread[3:5])
            if self._unread[1] != _MAJOR or not _RECORD_HEAD_BYTES < end <= _RECORD_HEAD_BYTES + _RECORD_LIMIT:
                raise NotTls("not a record of TLS")
            if len(self._unread) < end:
                return None
            self._message += self._unread[_RECORD_HEAD_BYTES:end]
            del self._unread[:end]
            if (body := self._body()) is not None:
                return _hello(body)
        return None

    def _body(self) -> bytes | None:
        if self._message[0] != _CLIENT_HELLO:
            raise NotTls("not a ClientHello")
        if len(self._message) < _MESSAGE_HEAD_BYTES:
            return None
        end = _MESSAGE_HEAD_BYTES + int.from_bytes(self._message[1:4])
        if end > LIMIT_BYTES:
            raise NotTls("too long")
        return bytes(self._message[_MESSAGE_HEAD_BYTES:end]) if len(self._message) >= end else None


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
    """Reads from the front of bytes; true while some are left.  Methods raise `NotTls` when data is cut short."""

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
