"""Pushes over HTTP/2 with frames as large as the server takes, as clients in Go, Python and Rust send them.

One connection, one request at a time, nothing checked but statuses.  curl will not do: it sends frames of 16 KiB
whatever the server says.  Beside: `client.py`, the same for HTTP/1.1.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import h2.connection
import h2.events

from bench.client import Refused

if TYPE_CHECKING:
    import ssl

    from bench.content import Blob

__all__ = ["H2Client"]

_READ: Final = 64 << 10


class H2Client:
    """A connection over TLS to 127.0.0.1:`port`; `secure` must offer `h2`.

    Every method raises Refused or OSError.
    """

    def __init__(self, port: int, secure: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=600)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = secure.wrap_socket(plain, server_hostname="localhost")
        if self._socket.selected_alpn_protocol() != "h2":
            raise Refused("HTTP/2 is not offered")
        self._h2 = h2.connection.H2Connection()
        self._h2.initiate_connection()
        self._answer: dict[str, str] = {}
        self._ended = False
        self._flush()
        # The server's settings say how large frames may be, and its window how much may be under way.
        while self._h2.max_outbound_frame_size == h2.connection.H2Connection().max_outbound_frame_size:
            self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def push(self, name: str, blob: Blob) -> None:
        """POST, PATCH, PUT, the body whole with its length."""
        place = self._request(202, "POST", f"/v2/{name}/blobs/uploads/")
        place = self._request(202, "PATCH", place, blob.data)
        self._request(201, "PUT", f"{place}{'&' if '?' in place else '?'}digest={blob.digest}")

    def _request(self, status: int, method: str, target: str, body: bytes | memoryview = b"") -> str:
        """One request; the path and query of its Location."""
        stream = self._h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", target)]
        self._answer, self._ended = {}, False
        self._h2.send_headers(stream, [*fields, ("content-length", str(len(body)))], end_stream=not body)
        self._flush()
        if body:
            self._send(stream, memoryview(body))
        while not self._ended:
            self._receive()
        if self._answer[":status"] != str(status):
            raise Refused(f"{method} {target}: {self._answer}")
        place = urlsplit(self._answer.get("location", ""))
        return f"{place.path}?{place.query}" if place.query else place.path

    def _send(self, stream: int, body: memoryview) -> None:
        while body:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(body))
            if room <= 0:
                self._receive()
                continue
            self._h2.send_data(stream, bytes(body[:room]), end_stream=room == len(body))
            body = body[room:]
            self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _receive(self) -> None:
        data = self._socket.recv(_READ)
        if not data:
            raise Refused("connection closed within an answer")
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self._answer = {_text(name): _text(value) for name, value in event.headers or ()}
            elif isinstance(event, h2.events.StreamEnded):
                self._ended = True
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise Refused(f"the server broke it off: {event}")
        self._flush()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
