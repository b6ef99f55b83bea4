"""Proxy of the S3 store that counts requests and changes no byte, so that signatures hold.

It reads the framing of RFC 9112 (Content-Length, chunks) from the client to find where each request begins;
answers are copied as they come.  For counting only: what goes through it is not timed.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Counting"]

_PIECE: Final = 64 << 10
_QUIET_S: Final = 0.3


class Counting:
    """Listens on loopback while the context lasts.  `endpoint` replaces the store's own, also plain HTTP."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        if address.scheme != "http" or address.hostname is None:
            raise ValueError(f"requests to {endpoint} cannot be counted: only those over plain HTTP can")
        self._server = _Server((address.hostname, address.port or 80))
        self.endpoint: Final = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def during(self, work: Callable[[], None]) -> int:
        """Return the number of requests that `work` causes, those after its last response included."""
        before = self.settled()
        work()
        return self.settled() - before

    @property
    def so_far(self) -> int:
        """Number of requests until now."""
        return len(self._server.seen)

    def settled(self) -> int:
        """Return the number of requests when none has arrived for a while."""
        known = -1
        while known != (known := self.so_far):
            time.sleep(_QUIET_S)
        return known


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, store: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.store: Final = store
        self.seen: Final[list[bytes]] = []


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        # Either end may go away at any time; the other then sees its connection closed.
        with contextlib.suppress(OSError), socket.create_connection(self.server.store) as store:
            threading.Thread(target=_copy, args=(store, self.connection), daemon=True).start()
            while head := self._head():
                self.server.seen.append(head[0])
                store.sendall(b"".join(head))
                for piece in self._body(head[1:]):
                    store.sendall(piece)
            store.shutdown(socket.SHUT_RDWR)

    def _head(self) -> list[bytes]:
        """Read request line and headers with the empty line; nothing at the end of the connection."""
        lines = []
        while line := self.rfile.readline():
            lines.append(line)
            if line == b"\r\n":
                return lines
        return []

    def _body(self, headers: list[bytes]) -> Iterator[bytes]:
        fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in headers)
        }
        if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
            yield from self._pieces(int(fields.get(b"content-length", 0)))
            return
        size = -1
        while size:
            line = self.rfile.readline()
            size = int(line.partition(b";")[0], 16)
            yield line
            yield from self._pieces(size + 2)

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left and (piece := self.rfile.read1(min(left, _PIECE))):
            left -= len(piece)
            yield piece


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_RDWR)
