"""HTTP/1.1 connection: reads requests in order and runs the application for one at a time.

    HEAD ─► BODY ─► ANSWER ─► HEAD ...           keep-alive: the next request, possibly buffered already
      │       │        └────► LINGER ─► closed   the response closes the connection
      └───────┴── refused ──► LINGER             400, 414, 431, ...: the response is delivered, no more is parsed

HEAD    reads a request line and headers, within `header_timeout_s` from the first byte; before it the connection
        is idle.
BODY    decodes a body into pieces that the application gets by `receive`.  Reading is paused while
        `_PIECES_LIMIT_BYTES` are buffered: backpressure from a slow store to the client.
ANSWER  the request has been read completely.  Further bytes belong to the next request: at most one read is kept
        undecoded, and reading is paused.  So pipelined requests are never parsed ahead.
LINGER  the response is sent and the sending side is shut down; further bytes are read and discarded until the
        client closes, or a bound is reached.  Closing at once would reset the connection, and a client that is
        still sending would lose the response (RFC 9112 section 9.6).

Memory per connection: nothing while it is idle (one receive buffer serves the worker); a head of at most
`header_limit_bytes`; `_PIECES_LIMIT_BYTES` and one read of a body; `_WRITE_LIMIT_BYTES` and one piece of an
answer.

A client that shuts down its sending side after a request (half-close) still gets the response.  A disconnect is
detected by a reset, or when the response cannot be sent.

The reads go to a buffer that all connections of a worker share: uvloop calls `buffer_updated` in the same turn
in which it reads.
Neighbours: `server.py` accepts and enforces timeouts, `exchange.py` is ASGI, `tls_connection.py` adds TLS.
"""

from __future__ import annotations

import asyncio
import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from moorage.server.http1.exchange import Exchange
from moorage.server.http1.request_body import BodyRefused, ChunkedBody, SizedBody
from moorage.server.http1.request_head import HeadRefused, early_refusal, parse_head
from moorage.server.http1.response_head import refusal

if TYPE_CHECKING:
    from moorage.server.http1.file_sender import Cipher, FileJob
    from moorage.server.http1.interfaces import ServerContext
    from moorage.server.http1.request_body import Body
    from moorage.server.http1.request_head import RequestHead

__all__ = ["Connection"]

_HEAD, _BODY, _ANSWER, _LINGER, _CLOSED = range(5)
_PIECES_LIMIT_BYTES: Final = 512 << 10
_WRITE_LIMIT_BYTES: Final = 256 << 10
_CR: Final = 13
_LF: Final = 10
_DRAINED_BODY_BYTES: Final = 256 << 10
"""Largest unread rest of a body that is read and dropped in order to keep the connection."""

_TURNS: Final = 3
_UNSENT_POLL_S: Final = 0.05
_LINGER_S: Final = 30.0
_LINGER_IDLE_S: Final = 5.0
_LINGER_BYTES: Final = 256 << 20
"""Bounds of LINGER: in all, between two reads, and in bytes."""


class Connection(asyncio.BufferedProtocol):
    """A connection without TLS.

    `deadline` is the time, by the loop's clock, at which `expired` is called; infinite for never.
    """

    __slots__ = (
        "_body", "_exchange", "_linger_ends", "_lingered", "_partial", "_previous", "_reading", "_rest",
        "_rest_at", "_state", "_transport", "_window", "_window_bytes", "client", "deadline", "eof", "loop",
        "lost", "lost_unsent", "server", "sock", "tls_subject", "write_waiter", "writing_paused", "written",
    )  # fmt: skip

    scheme = "http"

    def __init__(self, server: ServerContext, sock: socket.socket, client: tuple[str, int] | None) -> None:
        self.server = server
        self.sock = sock
        self.client = client
        self.loop = server.loop
        self.deadline = math.inf
        self.eof = False
        self.lost = False
        self.tls_subject = ""
        self.writing_paused = False
        self.write_waiter: asyncio.Future[None] | None = None
        self.written = 0
        self.lost_unsent = 0
        self._transport: Any = None
        self._state = _HEAD
        self._partial = bytearray()
        self._previous: RequestHead | None = None
        self._rest: memoryview | None = None
        self._rest_at = 0
        self._body: Body | None = None
        self._exchange: Exchange | None = None
        self._reading = True
        self._window_bytes = 0
        self._window = 0.0
        self._lingered = 0
        self._linger_ends = 0.0

    # asyncio's callbacks

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_LIMIT_BYTES, low=0)
        self.server.connection_opened(self)
        self.deadline = self.loop.time() + self.server.options.header_timeout_s

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        # Pipelined requests fill no more than this.
        return self.server.buffer if self._state == _BODY else self.server.small_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received(self.server.buffer, 0, nbytes)

    def eof_received(self) -> bool:
        """Keep the sending side open while a response is pending."""
        self.eof = True
        response_pending = self._exchange is not None and not self._exchange.is_over
        if not response_pending or self._state not in {_BODY, _ANSWER}:
            self.close()
        elif self._state == _BODY and self._exchange is not None:
            self._exchange.client_disconnected()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        self._state = _CLOSED
        self.deadline = math.inf
        self.server.connection_closed(self)
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.client_disconnected()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        waiter, self.write_waiter = self.write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def cipher(self) -> Cipher | None:
        """Return the cipher for file responses; None without TLS."""
        return None

    # Reading

    def received(self, view: memoryview, at: int, end: int) -> None:
        """Handle decrypted bytes from the client: `view[at:end]`; `view` covers a whole buffer."""
        state = self._state
        if state == _HEAD:
            self._read_head(view, at, end)
        elif state == _BODY:
            self._read_body(view, at, end)
        elif state == _ANSWER:
            self._buffer_next_request(view, at, end)
        elif state == _LINGER:
            self._lingered += end - at
            now = self.loop.time()
            self.deadline = min(self._linger_ends, now + _LINGER_IDLE_S)
            if self._lingered > _LINGER_BYTES:
                self.abort()

    def _buffer_next_request(self, view: memoryview, at: int, end: int) -> None:
        """Buffer bytes of the next request and pause reading until the current one is answered.

        Buffered bytes are not copied again: with a thousand pipelined requests each would copy all others.
        """
        if self._rest is view:
            self._rest_at = at
        elif self._rest is None:
            self._rest, self._rest_at = memoryview(view[at:end].tobytes()), 0
        else:
            self._rest, self._rest_at = memoryview(self._rest[self._rest_at :].tobytes() + view[at:end]), 0
        self.pause_reading()

    def pause_reading(self) -> None:
        if self._reading and not self.lost:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self.lost and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def _read_head(self, view: memoryview, at: int, end: int) -> None:
        if self._partial == b"\r" and view[at] == _LF:
            # An empty line in two reads.
            self._partial = bytearray()
            at += 1
        if not self._partial:
            # RFC 9112 section 2.2: empty lines in front of a request are skipped; a CR or LF alone is none.
            while at + 1 < end and view[at] == _CR and view[at + 1] == _LF:
                at += 2
            if at == end:
                return
            buffer: Any = view.obj  # bytes or a bytearray; a view cannot search
            found = buffer.find(b"\r\n\r\n", at, end)
            if found < 0:
                if end - at > 1 or view[at] != _CR:  # else half of an empty line: no head has begun
                    self.deadline = self.loop.time() + self.server.options.header_timeout_s
                self._await_head(view[at:end])
                return
            head, stop = view[at : found + 4].tobytes(), found + 4
        else:
            before = len(self._partial)
            self._partial += view[at:end]
            found = self._partial.find(b"\r\n\r\n", max(0, before - 3))
            if found < 0:
                self._await_head(b"")
                return
            head, stop = bytes(self._partial[: found + 4]), at + found + 4 - before
            self._partial = bytearray()
        try:
            request = parse_head(head, self.server.options, self._previous)
        except HeadRefused as error:
            self._refuse(error.status, error.text)
            return
        self._previous = request
        self._begin(request)
        if stop < end:
            self.received(view, stop, end)

    def _await_head(self, data: memoryview | bytes) -> None:
        self._partial += data
        if (error := early_refusal(self._partial, self.server.options)) is not None:
            self._refuse(error.status, error.text)

    def _begin(self, request: RequestHead) -> None:
        """Start the application for one request."""
        self.deadline = math.inf
        if request.chunked:
            self._body = ChunkedBody()
        else:
            self._body = SizedBody(request.content_length) if request.content_length else None
        self._state = _ANSWER if self._body is None else _BODY
        self._exchange = exchange = Exchange(self, request, has_body=self._body is not None)
        if self._body is not None:
            self._restart_window()
        exchange.run()

    def _read_body(self, view: memoryview, at: int, end: int) -> None:
        body, exchange = self._body, self._exchange
        assert body is not None
        assert exchange is not None
        found: list[memoryview] = []
        try:
            stop = body.decode(view, at, end, found)
        except BodyRefused as error:
            if exchange.head_sent:
                self.abort()
            else:
                self._refuse(400, f"malformed request body: {error}")
                exchange.client_disconnected()
            return
        self._window_bytes += end - at
        if body.done:
            self._state = _ANSWER
            self._body = None
            self.deadline = math.inf
        if found or body.done:
            exchange.feed(b"".join(found) if found else b"", last=body.done)
        if self._state == _BODY:
            if exchange.waiting_bytes >= _PIECES_LIMIT_BYTES:
                self.pause_reading()
        elif stop < end:
            self.received(view, stop, end)

    def body_consumed(self) -> None:
        """Resume reading: the application has received all buffered pieces."""
        if self._state == _BODY and not self._reading:
            self._restart_window()
            self.resume_reading()

    def _restart_window(self) -> None:
        self._window = self.loop.time()
        self._window_bytes = 0
        self.deadline = self._window + self.server.options.body_timeout_s

    # Answering

    def write(self, *data: bytes) -> None:
        """Write to the transport; `written` counts the bytes."""
        for one in data:
            self.written += len(one)
        if len(data) == 1:
            self._transport.write(data[0])
        else:
            self._transport.writelines(data)

    def unsent(self) -> int:
        """Return how many bytes of `written` the kernel has not taken."""
        return 0 if self._transport is None or self.lost else self._transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until writing is resumed.  Raises ConnectionError when the client has left or reads too slowly."""
        while self.writing_paused and not self.lost:
            self._await_sending()
            self.lost_unsent = self.unsent()
            self.write_waiter = self.loop.create_future()
            await self.write_waiter
        if self._state != _BODY:
            self.deadline = math.inf
        self.check_lost()

    def _await_sending(self) -> None:
        self._window = self.loop.time()
        self._window_bytes = self.sent()
        self.deadline = self._window + self.server.options.send_timeout_s

    def sent(self) -> int:
        """Return how many bytes the kernel has taken, those of files included."""
        file = 0 if self._exchange is None else self._exchange.file_sent
        return self.written - self.unsent() + file

    async def send_file(self, job: FileJob, head: bytes) -> None:
        """Send `head`, then bytes of a file, from a thread.  Raises OSError."""
        self._await_sending()
        turns = 0
        while self.unsent():
            # uvloop writes at the end of its turn; only a client that reads slowly makes this wait longer.
            turns += 1
            await asyncio.sleep(0 if turns < _TURNS else _UNSENT_POLL_S)
            self.check_lost()
        try:
            await self.server.files.send(job, head, self.loop)
        finally:
            self.deadline = math.inf

    def check_lost(self) -> None:
        """Raises ConnectionResetError when the client has left."""
        if self.lost:
            raise ConnectionResetError("the client has left")

    def unread_is_small(self) -> bool:
        """Return whether the rest of the request's body is worth reading to keep the connection."""
        if self._body is None:
            return True
        left = self._body.left
        return left is not None and left <= _DRAINED_BODY_BYTES

    def response_sent(self, *, keep: bool) -> None:
        """End the exchange: read the next request, or close the connection."""
        if self.lost:
            return
        if not keep or (self.eof and self._state == _BODY):
            # With `eof` the rest of the body never comes.
            self._exchange = None
            self._linger()
        elif self._state == _BODY:
            # The rest of a small body is read and dropped first.
            self._restart_window()
            self.resume_reading()
        else:
            self._next_request()

    def body_discarded(self) -> None:
        """Read the next request: the rest of a body that the application did not read has been dropped."""
        self._next_request()

    def _next_request(self) -> None:
        self._exchange = None
        if self.eof or (self.server.stopping and self._rest is None):
            self._linger()
            return
        self._state = _HEAD
        self.deadline = self.loop.time() + self.server.options.idle_timeout_s
        if self._rest is None:
            self.resume_reading()
        else:
            # Not recursively: a thousand pipelined requests would be as many frames deep.
            self.loop.call_soon(self._parse_buffered)

    def _parse_buffered(self) -> None:
        """Parse the buffered bytes of the next request."""
        if (rest := self._rest) is None or self._state != _HEAD:
            return
        at, self._rest_at = self._rest_at, len(rest)
        self.received(rest, at, len(rest))
        if self._rest is rest and self._rest_at == len(rest):
            self._rest = None
        if self._state in {_HEAD, _BODY}:
            self.resume_reading()

    # Ending

    @property
    def is_idle(self) -> bool:
        begun = self._partial and self._partial != b"\r"
        return self._state == _HEAD and not begun and self._exchange is None

    @property
    def idle_since(self) -> float:
        """Return since when it has been idle, if it is."""
        options, is_new = self.server.options, self._previous is None
        return self.deadline - (options.header_timeout_s if is_new else options.idle_timeout_s)

    def _refuse(self, status: int, text: str) -> None:
        """Answer a malformed request and close the connection."""
        self.server.log_client_error("refused a request that cannot be read", self, status=status, reason=text)
        self.write(refusal(status, text, self.server.date()))
        self._linger()

    def _linger(self) -> None:
        """Send buffered bytes, shut down the sending side, and read until the client closes."""
        if self.lost or self._state in {_LINGER, _CLOSED}:
            return
        self._state = _LINGER
        self._rest = None
        self._partial = bytearray()
        now = self.loop.time()
        self._linger_ends = now + _LINGER_S
        # Until the response is sent its progress counts; `expired` checks it.
        self.deadline = now + _LINGER_IDLE_S
        self.shut_down_sending()
        if self.eof:
            self.close()
        else:
            self.resume_reading()

    def shut_down_sending(self) -> None:
        if not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close after all buffered bytes are sent."""
        if self._transport is not None:
            self._state = _CLOSED
            self.deadline = self.loop.time() + self.server.options.send_timeout_s
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection, also while a thread sends a file."""
        if self.lost or self._transport is None:
            return
        with suppress(OSError):  # it is not connected any more
            self.sock.shutdown(socket.SHUT_RDWR)
        self._transport.abort()

    def expired(self, now: float) -> None:
        """Handle a deadline that has passed, according to the state."""
        options = self.server.options
        if self._state == _HEAD:
            if not self.is_idle:
                self._refuse(408, f"the request's head did not arrive within {options.header_timeout_s:g} s")
            elif self.unsent():
                self.abort()
            else:
                self.close()
        elif self._state == _LINGER:
            if self.unsent() and now < self._linger_ends + options.send_timeout_s:
                self.deadline = now + _LINGER_IDLE_S
            elif now >= self._linger_ends or not self.unsent():
                self.abort() if self.unsent() else self.close()
        elif self._state == _CLOSED:
            self.abort()
        elif self._exchange is not None and self._exchange.is_sending:
            self._check_send_rate(now)
        elif self._state == _BODY:
            self._check_body_rate(now)
        else:
            self.deadline = math.inf

    def _keeps_least_rate(self, moved_bytes: int, now: float) -> bool:
        """Return whether enough bytes have moved since the window began; none at all are never enough."""
        return 0 < moved_bytes >= self.server.options.least_rate * (now - self._window)

    def _check_send_rate(self, now: float) -> None:
        if self._keeps_least_rate(self.sent() - self._window_bytes, now):
            self._await_sending()
            return
        self.server.log_client_error("a client is disconnected: it reads slower than http.leastrate", self)
        self.abort()

    def _check_body_rate(self, now: float) -> None:
        exchange = self._exchange
        assert exchange is not None
        busy = not exchange.is_receiving and not exchange.is_over
        if busy or self._keeps_least_rate(self._window_bytes, now):
            self._restart_window()
        elif exchange.is_over:
            self.abort()
        else:
            self.deadline = math.inf
            exchange.body_too_slow()
