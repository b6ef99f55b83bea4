"""Request and response bodies.

Requests: a body is complete only if the server reports it.  `http.disconnect` from `receive` means that the client
disconnected before the announced Content-Length or the last chunk, so a truncated body never looks complete.
Silence longer than `http.bodytimeout` is a 408.  A server with the extension `moorage.pieces` passes the pieces of
one read as a list, without joining them.

Responses: a local file, whole or a range, is sent by `http.response.zerocopysend` of ASGI; a small blob in one
message; everything else in pieces of up to 1 MiB.  `send` raises OSError when the client has left, which
`middleware.py` counts and logs.
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.errors import ManifestTooLarge, RegistryError, RequestTimeout
from moorage.http.headers import first_header
from moorage.http.ranges import parse_decimal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from io import FileIO

    from starlette.types import Receive, Scope, Send

    from moorage.http.reply import Header
    from moorage.registry.interface import GrowingFile

__all__ = [
    "ClientDisconnected",
    "FileResponse",
    "GrowingFileResponse",
    "PiecesResponse",
    "body",
    "read_body",
    "size_of",
]

_PIECES: Final = "moorage.pieces"
_READ_ERRORS: Final = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODATA})
"""Errors of a file that is read; every other OSError of `send` means that the client has left."""
_log: Final = structlog.get_logger("moorage.http")


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete; no response can be sent."""


async def body(scope: Scope, receive: Receive, timeout_s: float) -> AsyncGenerator[bytes | list[bytes], None]:
    """Yield the request's body, in pieces or lists of pieces.  Raises ClientDisconnected, RequestTimeout.

    The timeout is measured here for other servers only: `server.http1` enforces it, and a least rate, by itself.
    """
    loop = asyncio.get_running_loop()
    timed = True
    if (pieces := (scope.get("extensions") or {}).get(_PIECES)) is not None:
        pieces["requested"] = True
        timed = False
    try:
        async with asyncio.timeout(timeout_s if timed else None) as silence:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientDisconnected
                if chunk := message.get("body") or message.get("pieces"):
                    # While the storage works the client is not silent: it waits for us.
                    if timed:
                        silence.reschedule(None)
                    yield chunk
                if not message.get("more_body"):
                    return
                if timed:
                    silence.reschedule(loop.time() + timeout_s)
    except TimeoutError as error:
        raise RequestTimeout(f"no byte of the body came for {timeout_s:g} s; what came before is kept") from error


async def read_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """Return a small body.  Raises ManifestTooLarge as soon as it exceeds `limit` bytes."""
    announced = parse_decimal(first_header(scope, b"content-length"))
    if announced is not None and announced > limit:
        raise ManifestTooLarge(f"it has {announced} bytes, at most {limit} are taken")
    pieces: list[bytes] = []
    size = 0
    async for part in body(scope, receive, timeout_s):
        size += size_of(part)
        if size > limit:
            raise ManifestTooLarge(f"it has more than the {limit} bytes that are taken")
        pieces += [part] if isinstance(part, bytes) else part
    return b"".join(pieces)


def size_of(part: bytes | list[bytes]) -> int:
    """Return the number of bytes of one value of `body`."""
    return len(part) if isinstance(part, bytes) else sum(map(len, part))


class FileResponse:
    """A span of an open file, sent by the server itself (`http.response.zerocopysend`).

    Closes the file, also when the client has left.
    """

    def __init__(self, file: FileIO, span: range, status: int, headers: Sequence[Header]) -> None:
        self.status_code = status
        self.raw_headers: Any = headers
        self.file = file
        self.span = span

    @staticmethod
    def offered(scope: Scope) -> bool:
        return "http.response.zerocopysend" in (scope.get("extensions") or ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        with self.file as file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            span = {"offset": self.span.start, "count": len(self.span)}
            try:
                await send({"type": "http.response.zerocopysend", "file": file, **span, "more_body": False})
            except OSError as error:
                if error.errno not in _READ_ERRORS:
                    raise
                # Too late for another status: the missing rest makes the server cut the connection.
                cause = f"send {file.name}: {error.strerror} ({errno.errorcode[error.errno]})"
                _log.error("the storage failed", cause=cause)


class GrowingFileResponse:
    """A span of a file that is still being received, sent by the server itself as it grows.

    If the transfer fails, the missing rest makes the server cut the connection.
    """

    def __init__(self, file: GrowingFile, span: range, status: int, headers: Sequence[Header]) -> None:
        self.status_code = status
        self.raw_headers: Any = headers
        self.file = file
        self.span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        offset, stop = self.span.start, self.span.stop
        try:
            end = await self.file.grown(offset, stop)  # before the status: the transfer may fail
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while offset < stop:
                if end == offset:
                    end = await self.file.grown(offset, stop)
                await send(
                    {
                        "type": "http.response.zerocopysend",
                        "file": self.file.file,
                        "offset": offset,
                        "count": end - offset,
                        "more_body": end < stop,
                    }
                )
                offset = end
        except RegistryError as error:
            if offset == self.span.start:
                raise  # nothing has been sent, and another status can be
            scope["moorage.refusal"] = error.code
        finally:
            self.file.close()


class PiecesResponse:
    """Response with the pieces of a blob, opened before the status line is sent and always closed."""

    def __init__(
        self,
        opened: AbstractAsyncContextManager[AsyncIterator[bytes]],
        status: int,
        headers: Sequence[Header],
    ) -> None:
        self.status_code = status
        self.raw_headers: Any = headers
        self.opened = opened
        self.pieces: AsyncIterator[bytes] | None = None

    async def open(self) -> PiecesResponse:
        """Raises BlobUnknown while a 404 can still be sent."""
        self.pieces = await self.opened.__aenter__()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.pieces is not None, "open() comes first"
        del receive
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_exit(self.opened)
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                async for piece in self.pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except RegistryError as error:
            # Too late for another status: the missing rest makes the server cut the connection.  The registry has
            # logged the cause.
            scope["moorage.refusal"] = error.code
