"""Bodies: taken in with a clock beside them, sent out by whatever moves them cheapest.

In: a body that ends early must never count as whole.  Seen with Granian 2.8.7 over raw sockets, in both forms of
HTTP/1.1 (Content-Length; chunked, cut within a chunk, between chunks, before the last CRLF, or with a garbled
chunk size): the pieces that arrived are delivered, then `http.disconnect` comes in place of the last
`http.request`.  So a disconnect is `ClientGone`, and the count is compared with Content-Length besides, for
servers that are less careful (`tests/http/test_live_bodies.py` repeats the experiment).

Out: `send` never fails when the client has left (seen: a gigabyte "sent" to nobody), so a long answer watches
`receive` for the disconnect.  A body that ends early cuts the connection, so that nobody takes half a blob for
a whole one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import RegistryError, RequestTimeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from moorage.http.messages import Header, Outgoing, Receive, Scope

__all__ = ["SMALL_BYTES", "ClientGone", "FileResponse", "Part", "RequestBody", "StreamResponse"]

SMALL_BYTES: Final = 64 << 10
"""Up to here a blob is sent in one message: handing a path to the server costs more than reading the file."""

_DRAIN_BYTES: Final = 16 << 20
_DRAIN_S: Final = 10.0
_log: Final = structlog.get_logger("moorage.http")


class ClientGone(Exception):
    """The client closed its connection before its request was whole; nobody waits for an answer."""


class RequestBody:
    """The body of one request, read at most once.

    `length` is its Content-Length, None under chunked encoding and often in HTTP/2; `expected` whether there is
    a body at all, as far as the headers tell.
    """

    __slots__ = ("_finished", "_http1", "_receive", "_timeout_s", "_waits", "expected", "length")

    def __init__(self, scope: Scope, receive: Receive, timeout_s: float) -> None:
        self._receive = receive
        self._timeout_s = timeout_s
        self._finished = False
        self._http1: bool = not scope["http_version"].startswith("2")
        self._waits = False
        self.length: int | None = None
        chunked = False
        for name, value in scope["headers"]:
            if name == b"content-length":
                self.length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"expect":
                self._waits = True
        self.expected = chunked or bool(self.length) or (self.length is None and not self._http1)

    @property
    def unread(self) -> bool:
        """A body is still coming in that nobody wants, and leaving it would reset the connection.

        HTTP/2 ends a single stream cleanly, and who sent `Expect: 100-continue` sends nothing if refused.
        """
        return self.expected and not self._finished and self._http1 and not self._waits

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives, without empty pieces.

        Raises `RequestTimeout` when the client sends nothing for too long, and `ClientGone` when the
        connection ends before the body does.
        """
        received = 0
        more = True
        while more:
            try:
                async with asyncio.timeout(self._timeout_s):
                    message = await self._receive()
            except TimeoutError:
                self._finished = True
                raise RequestTimeout(f"no byte for {self._timeout_s:g} seconds") from None
            if message["type"] != "http.request":
                self._finished = True
                raise ClientGone
            more = message.get("more_body", False)
            if piece := message.get("body", b""):
                received += len(piece)
                yield piece
        self._finished = True
        if self.length is not None and received != self.length:
            raise ClientGone

    async def drain(self) -> None:
        """Throw the rest away, within limits of size and time; past them the connection is reset."""
        self._finished = True
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_S):
                while left > 0:
                    message = await self._receive()
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return

    async def gone(self) -> None:
        """Returns when the client has left; to be run beside a long answer."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class FileResponse:
    """A whole file of this host, sent by the server itself (`http.response.pathsend`)."""

    __slots__ = ("headers", "path", "size")

    def __init__(self, headers: Sequence[Header], path: str, size: int) -> None:
        self.headers = headers
        self.path = path
        self.size = size

    async def send(self, out: Outgoing) -> None:
        await out.start(200, [*self.headers, (b"content-length", b"%d" % self.size)])
        await out.file(self.path)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of a blob, after `lead` (the header of one part of a multipart answer)."""

    start: int
    stop: int
    lead: bytes = b""

    @property
    def length(self) -> int:
        return len(self.lead) + self.stop - self.start


class StreamResponse:
    """Parts of a blob, in pieces as the storage gives them, then `tail`.

    The first part is opened before the status line goes, so a blob that vanished is still a 404.
    """

    __slots__ = ("headers", "open", "parts", "status", "tail")

    def __init__(
        self,
        status: int,
        headers: Sequence[Header],
        open_part: Callable[[int, int], AbstractAsyncContextManager[AsyncIterator[bytes]]],
        parts: Sequence[Part],
        tail: bytes = b"",
    ) -> None:
        self.status = status
        self.headers = headers
        self.open = open_part
        self.parts = parts
        self.tail = tail

    @property
    def length(self) -> int:
        return sum(part.length for part in self.parts) + len(self.tail)

    async def send(self, out: Outgoing) -> None:
        length = self.length
        headers = [*self.headers, (b"content-length", b"%d" % length)]
        if length <= SMALL_BYTES:
            whole = b"".join([piece async for piece in self._pieces()])
            await out.start(self.status, headers)
            await out.piece(whole, more=False)
            return
        watch: asyncio.Task[None] | None = None
        try:
            async for piece in self._pieces():
                if watch is None:
                    await out.start(self.status, headers)
                    watch = asyncio.create_task(out.body.gone())
                elif watch.done():
                    return
                await out.piece(piece, more=True)
            await out.piece(b"", more=False)
        except RegistryError as error:
            if not out.started:
                raise
            # Returning without the last piece makes the server cut the connection.
            _log.error("an answer broke off: the storage failed", cause=str(error))  # noqa: TRY400  cause known
        finally:
            if watch is not None:
                watch.cancel()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            async with self.open(part.start, part.stop) as pieces:
                if part.lead:
                    yield part.lead
                async for piece in pieces:
                    yield piece
        if self.tail:
            yield self.tail
