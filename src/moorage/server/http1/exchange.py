"""ASGI interface of one request and its response.

    receive   pieces of the body as they arrive, then `http.disconnect`: the client has left or the response ended
    send      the response: with Content-Length as given, in chunks otherwise (until the end for HTTP/1.0)

Extensions of the scope:

    http.response.zerocopysend   part of ASGI: a file is sent by sendfile(2), or encrypted in a thread
    moorage.pieces               with `requested` set, `http.request` has "pieces", a list, beside an empty body

`send` raises ConnectionError when the client has left.  For a file it raises `errors.Unavailable` where
descriptors or threads are used up and nothing of the response has been sent; the application may then start
another response.
`receive` raises TimeoutError when a body arrives too slowly.

`scope["moorage.transfer"]` is the exchange itself: `body_sent` counts the bytes of the body that the kernel has
taken, `tls_subject` is the subject of the client's certificate.

Source: ASGI specification 3.0, HTTP 2.4; RFC 9112 sections 6, 7 and 9; RFC 9110 section 10.1.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.errors import Unavailable
from moorage.server.http1.response_head import CONTINUE, head
from moorage.system_errors import remedy_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import MutableMapping

    from moorage.server.http1.file_sender import FileJob
    from moorage.server.http1.interfaces import ResponseConnection
    from moorage.server.http1.request_head import RequestHead

    Message = MutableMapping[str, Any]

__all__ = ["Exchange"]

_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}
_CLOSE: Final = b"connection: close\r\n"
_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_NO_CONTENT: Final = 204
_NO_BODY: Final = frozenset({204, 304})
_JOINED_BYTES: Final = 16 << 10
"""Smaller bodies are sent together with the head in one buffer; larger ones beside it, without a copy."""

_FAILED: Final = b"internal server error\n"
_EXHAUSTED: Final = "the registry has too many open files or threads; try again later"
_RETRY_AFTER_S: Final = 1
"""Descriptors are free again as soon as other requests end."""

_OWN: Final = frozenset({b"connection", b"transfer-encoding", b"keep-alive"})
_log: Final = structlog.get_logger("moorage.server")


class Exchange:
    """See the module docstring.  `waiting_bytes` counts body bytes that the application has not received."""

    __slots__ = (
        "_body_over", "_body_written", "_chunked", "_connection", "_continue", "_disconnected", "_ended",
        "_expected", "_headers", "_keep", "_last_delivered", "_omits_body", "_pieces", "_request", "_scope",
        "_slow", "_status", "_task", "_waiter", "file_sent", "head_sent", "is_receiving", "is_sending",
        "waiting_bytes",
    )  # fmt: skip

    def __init__(self, connection: ResponseConnection, request: RequestHead, *, has_body: bool) -> None:
        self._connection = connection
        self._request = request
        self._pieces: list[bytes] = []
        self.waiting_bytes = 0
        self.file_sent = 0
        self.is_sending = False
        self.is_receiving = False
        self._body_over = not has_body
        self._last_delivered = False
        self._continue = request.expects_continue and has_body
        self._waiter: asyncio.Future[None] | None = None
        self._disconnected = False
        self._slow = False
        self._ended = False
        self._status = 0
        self._headers: Any = ()
        self.head_sent = False
        self._chunked = False
        self._omits_body = False
        self._expected: int | None = None
        self._keep = False
        self._body_written = 0
        self._task: asyncio.Task[None] | None = None
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": request.version,
            "method": request.method,
            "scheme": connection.scheme,
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query,
            "root_path": "",
            "headers": request.headers,
            "client": connection.client,
            "server": connection.server.address,
            "extensions": {"http.response.zerocopysend": {}, "moorage.pieces": {}},
            "moorage.transfer": self,
        }

    # For the connection

    def run(self) -> None:
        self._task = self._connection.loop.create_task(self._run())

    @property
    def is_over(self) -> bool:
        return self._ended

    def feed(self, piece: bytes, *, last: bool) -> None:
        """Buffer a piece of the body."""
        self._continue = False
        if last:
            self._body_over = True
        if self._ended:
            if last:
                self._connection.body_discarded()
            return
        if piece:
            self._pieces.append(piece)
            self.waiting_bytes += len(piece)
        self._wake()

    def client_disconnected(self) -> None:
        """Record that the body stays incomplete, or that the client cannot read the response."""
        self._disconnected = True
        self._wake()

    def body_too_slow(self) -> None:
        """Make `receive` raise TimeoutError: the body arrives too slowly."""
        self._slow = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # For the access log

    @property
    def body_sent(self) -> int:
        """Body bytes that the kernel has accepted; those in a buffer at a disconnect do not count."""
        unsent = self._connection.lost_unsent if self._connection.lost else 0
        return max(0, self._body_written - unsent) + self.file_sent

    @property
    def tls_subject(self) -> str:
        return self._connection.tls_subject

    # ASGI

    async def _run(self) -> None:
        try:
            await self._connection.server.app(self._scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001  a bug of the application: logged with its traceback, the client gets a 500
            if not (self._disconnected and isinstance(error, ConnectionError)):
                _log.exception("unexpected error", method=self._request.method, path=self._request.path)
        if not self._ended:
            self._end_early()

    def _end_early(self) -> None:
        """Send a 500 or reset: the application returned before its response was complete."""
        self._ended = True
        connection = self._connection
        if self.head_sent:
            # A truncated response must not look complete.
            connection.abort()
        elif self._disconnected:
            connection.response_sent(keep=False)
        else:
            self._status, self._headers = 500, [(b"content-type", b"text/plain; charset=utf-8")]
            self._keep = False
            self._connection.write(self._head(len(_FAILED), more=False), b"" if self._omits_body else _FAILED)
            connection.response_sent(keep=self._keep)
        self._wake()

    async def _receive(self) -> Message:
        if self._continue:
            self._continue = False
            if not self.head_sent and not self._disconnected:
                self._connection.write(CONTINUE)
        while not (
            self._pieces or self._ended or self._disconnected or (self._body_over and not self._last_delivered)
        ):
            if self._slow:
                self._slow = False
                raise TimeoutError("the request body arrives too slowly")
            self._waiter = self._connection.loop.create_future()
            self.is_receiving = True
            try:
                await self._waiter
            finally:
                self.is_receiving = False
        if self._ended or (self._disconnected and not self._pieces):
            return {"type": "http.disconnect"}
        return self._take()

    def _take(self) -> Message:
        pieces, self._pieces = self._pieces, []
        self.waiting_bytes = 0
        self._last_delivered = self._body_over
        message: Message = {"type": "http.request", "body": b"", "more_body": not self._body_over}
        if len(pieces) == 1:
            message["body"] = pieces[0]
        elif "requested" in self._scope["extensions"].get("moorage.pieces", ()):
            message["pieces"] = pieces
        else:
            message["body"] = b"".join(pieces)
        if not self._body_over:
            self._connection.body_consumed()
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if self._disconnected:
            raise ConnectionResetError("the client has left")
        if kind == "http.response.start":
            if self._status:
                raise RuntimeError("the response has started already")
            self._status, self._headers = message["status"], message["headers"]
        elif not self._status or self._ended:
            raise RuntimeError(f"{kind} before http.response.start or after the end of the response")
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.zerocopysend":
            await self._send_file(message)
        else:
            raise RuntimeError(f"unknown message {kind}")

    async def _send_body(self, data: bytes, *, more: bool) -> None:
        connection = self._connection
        first = b"" if self.head_sent else self._head(len(data), more=more)
        if self._omits_body:
            data = b""
        self._count_body(len(data))
        if self._chunked:
            frames = [b"%x\r\n" % len(data), data, b"\r\n"] if data else []
            if not more:
                frames.append(b"0\r\n\r\n")
            if len(data) < _JOINED_BYTES:
                frames = [b"".join([first, *frames])]
            elif first:
                frames.insert(0, first)
            if frames[0]:
                connection.write(*frames)
        elif first and len(data) < _JOINED_BYTES:
            connection.write(first + data)
        elif first:
            connection.write(first, data)
        elif data:
            connection.write(data)
        self._body_written += len(data)
        if connection.writing_paused:
            # Also after the last piece: a client that pipelines requests and reads nothing would fill memory.
            self.is_sending = True
            try:
                await connection.drained()
            finally:
                self.is_sending = False
        if not more:
            self._finish()

    async def _send_file(self, message: Message) -> None:
        """Send part of a file; "offset" is needed, since the file's own position may be shared."""
        connection = self._connection
        count, more = message["count"], message.get("more_body", False)
        job = self._prepare(message) if count else None
        try:
            first = b"" if self.head_sent else self._head(count, more=more)
            self._count_body(0 if self._omits_body else count)
            if self._chunked:
                raise RuntimeError("http.response.zerocopysend needs a Content-Length, or more_body False")
            self.is_sending = True
            if job is not None and not self._omits_body:
                await connection.send_file(job, first)
            elif first:
                connection.write(first)
        except ConnectionError:
            # The thread notices it before the event loop, or instead of it: with TLS nothing is read meanwhile.
            self._disconnected = True
            raise
        finally:
            self.is_sending = False
            if job is not None:
                job.close()
        if not more:
            self._finish()

    def _prepare(self, message: Message) -> FileJob:
        """Acquire what sending a file needs.  Raises `Unavailable`; OSError when the head is sent already."""
        file = message["file"]
        descriptor = file if isinstance(file, int) else file.fileno()
        connection = self._connection
        try:
            return connection.server.files.prepare(
                connection, self, descriptor, message["offset"], message["count"]
            )
        except OSError as error:
            _log.error("cannot send a file", cause=str(error), path=self._request.path, remedy=remedy_of(error))
            if self.head_sent:
                raise
            self._status, self._headers = 0, ()
            raise Unavailable(_EXHAUSTED, retry_after_s=_RETRY_AFTER_S) from error

    def _count_body(self, size: int) -> None:
        """Count body bytes.  Raises RuntimeError beyond the Content-Length."""
        if self._expected is not None:
            self._expected -= size
            if self._expected < 0:
                raise RuntimeError("the response is longer than its Content-Length")

    def _finish(self) -> None:
        """End the exchange after a complete response."""
        self._ended = True
        self._pieces = []
        self.waiting_bytes = 0
        if self._expected:
            _log.error("a response is shorter than its Content-Length", path=self._request.path)
            self._connection.abort()
        else:
            self._connection.response_sent(keep=self._keep)
        self._wake()

    def _head(self, size: int, *, more: bool) -> bytes:
        """Decide on the framing and on keep-alive; return the encoded head."""
        connection, request = self._connection, self._request
        self.head_sent = True
        keep = request.keep_alive and not connection.server.draining
        headers, length = [], None
        for header in self._headers:
            name = header[0]  # in lower case, as ASGI demands
            if name == b"content-length":
                length = int(header[1])
                if self._status == _NO_CONTENT:  # RFC 9110 section 8.6
                    continue
            elif name in _OWN:
                keep = keep and b"close" not in header[1].lower()
                continue
            headers.append(header)
        extra = connection.server.date()
        head_only = request.method == "HEAD"
        self._omits_body = head_only or self._status in _NO_BODY
        if self._omits_body:
            self._expected = 0
        elif length is not None:
            self._expected = length
        elif not more:
            self._expected = size
            extra += b"content-length: %d\r\n" % size
        elif request.version == "1.0":
            keep = False
        else:
            self._chunked = True
            extra += _CHUNKED
        # Without 100 Continue the client may or may not send its body.
        if keep and not self._body_over and (self._continue or not connection.unread_is_small()):
            keep = False
        if not keep:
            extra += _CLOSE
        elif request.version == "1.0":
            extra += _KEEP_ALIVE
        self._keep = keep
        return head(self._status, headers, extra)
