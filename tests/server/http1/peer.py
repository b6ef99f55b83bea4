"""The client's side of the tests: a raw socket, and a strict reader of what a server sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LIMIT_S", "Answer", "Malformed", "Peer", "read_answers", "turns"]

LIMIT_S: Final = 30.0
"""Bound of every wait; reached only by a failure."""

_NO_BODY: Final = {204, 304}


class Malformed(Exception):
    """The bytes are not a sequence of HTTP/1.1 responses."""


@dataclass(frozen=True)
class Answer:
    """One response.  `interim` are the statuses (1xx) before it, `whole` is False if its body was cut."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    interim: tuple[int, ...] = ()
    whole: bool = True
    framing: str = "length"

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} is sent {len(found)} times"
        return found[0] if found else None


def read_answers(data: bytes, methods: Sequence[str] = ()) -> list[Answer]:
    """Parse everything that a server sent until the end; `methods` of the requests, in order (default GET).

    Raises Malformed.
    """
    answers: list[Answer] = []
    interim: list[int] = []
    while data:
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            raise Malformed(f"the head of a response is cut: {data[:200]!r}")
        status, headers = _read_head(head)
        if 100 <= status < 200:
            interim.append(status)
            data = rest
            continue
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        body, data, whole, framing = _read_body(method, status, dict(headers), rest)
        answers.append(Answer(status, headers, body, tuple(interim), whole, framing))
        interim = []
    if interim:
        raise Malformed(f"interim responses {interim} without a final one")
    return answers


def _read_head(head: bytes) -> tuple[int, tuple[tuple[str, str], ...]]:
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    status = rest[:3]
    if version != b"HTTP/1.1" or not status.isdigit() or rest[3:4] != b" ":
        raise Malformed(f"not a status line: {first!r}")
    headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
            raise Malformed(f"not a header line: {line!r}")
        headers.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
    return int(status), tuple(headers)


def _read_body(method: str, status: int, headers: dict[str, str], rest: bytes) -> tuple[bytes, bytes, bool, str]:
    """Return body, what follows, whether the body is whole, and how it was framed."""
    if method == "HEAD" or status in _NO_BODY:
        return b"", rest, True, "none"
    if "transfer-encoding" in headers:
        if "content-length" in headers or headers["transfer-encoding"] != "chunked":
            raise Malformed(f"ambiguous framing: {headers}")
        body, left, whole = _dechunk(rest)
        return body, left, whole, "chunked"
    if "content-length" in headers:
        size = int(headers["content-length"])
        return rest[:size], rest[size:], len(rest) >= size, "length"
    if headers.get("connection") != "close":
        raise Malformed(f"no framing, and the connection is kept: {headers}")
    return rest, b"", True, "close"


def _dechunk(data: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        line, found, rest = data.partition(b"\r\n")
        if not found:
            return body, b"", False
        size = int(line, 16)
        if size == 0:
            return body, rest.removeprefix(b"\r\n"), rest.startswith(b"\r\n")
        body += rest[:size]
        if len(rest) < size + 2:
            return body, b"", False
        if rest[size : size + 2] != b"\r\n":
            raise Malformed(f"no line end after a chunk: {rest[size : size + 10]!r}")
        data = rest[size + 2 :]


async def turns(count: int = 3) -> None:
    """Let the event loop read what was sent: each turn polls the sockets once."""
    for _ in range(count):
        await asyncio.sleep(0)


class Peer:
    """A client's socket.  `reset`: the server ended the connection by RST."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reset = False
        self.received = b""
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def connect(cls, port: int, *, receive_bytes: int = 0) -> Peer:
        """`receive_bytes` makes the receive buffer small, for slow readers."""
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def send(self, data: bytes) -> bool:
        """Send everything; False when the server has ended the connection."""
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._loop.sock_sendall(self.sock, data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    async def receive(self, size: int = 1 << 16) -> bytes:
        """Return some bytes; b"" at the end of the connection."""
        try:
            async with asyncio.timeout(LIMIT_S):
                data = await self._loop.sock_recv(self.sock, size)
        except ConnectionResetError:
            self.reset = True
            return b""
        self.received += data
        return data

    async def read_until(self, text: bytes) -> bytes:
        """Read until `text` has come; return everything that came on this connection."""
        while text not in self.received:
            assert await self.receive(), f"the connection ended before {text!r}: {self.received[-500:]!r}"
        return self.received

    async def read_to_end(self) -> bytes:
        while await self.receive():
            pass
        return self.received

    async def read_answer(self, method: str = "GET") -> Answer:
        """Read one response with Content-Length or without a body, and take it off what was received."""
        await self.read_until(b"\r\n\r\n")
        while True:
            answers = read_answers(self.received, [method])
            if answers and answers[0].whole:
                break
            assert await self.receive(), f"the connection ended within a response: {self.received[-500:]!r}"
        head = self.received.index(b"\r\n\r\n") + 4
        self.received = self.received[head + len(answers[0].body) :]
        return answers[0]

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close by RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()
