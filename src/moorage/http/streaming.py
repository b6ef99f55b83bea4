"""Bodies in and out.

In: a request's body is complete only when the server says so.  Granian 2.8 passes `http.disconnect` to
`receive` when a client hangs up before the announced Content-Length or the last chunk (checked with raw sockets
for both forms of HTTP/1.1), so a cut body never looks whole.  Silence longer than `http.bodytimeout` is a 408.

Out: a whole local file leaves by `http.response.pathsend`, without passing through Python; a small blob in one
message; ranges and everything else in pieces of up to 1 MiB.  Granian's `send` does not fail after the client has
left, so a stream of pieces watches for that itself.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from starlette.responses import Response

from moorage.errors import ManifestTooLarge, RegistryError, RequestTimeout
from moorage.http.ranges import parse_decimal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

__all__ = ["ClientGone", "FileResponse", "PiecesResponse", "body", "read_body"]


class ClientGone(Exception):
    """The client hung up before its request was complete; there is nobody left to answer."""


async def body(request: Request, timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The request's body, piece by piece.  Raises ClientGone, RequestTimeout."""
    receive = request.receive
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s) as silence:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                if chunk := message.get("body"):
                    # While the storage works the client is not silent: it waits for us.
                    silence.reschedule(None)
                    yield chunk
                if not message.get("more_body"):
                    return
                silence.reschedule(loop.time() + timeout_s)
    except TimeoutError as error:
        raise RequestTimeout(f"no byte of the body came for {timeout_s:g} s; what came before is kept") from error


async def read_body(request: Request, limit: int, timeout_s: float) -> bytes:
    """A whole small body.  Raises ManifestTooLarge as soon as it is known to be over `limit` bytes."""
    announced = parse_decimal(request.headers.get("content-length", ""))
    if announced is not None and announced > limit:
        raise ManifestTooLarge(f"it has {announced} bytes, at most {limit} are taken")
    pieces: list[bytes] = []
    size = 0
    async for piece in body(request, timeout_s):
        size += len(piece)
        if size > limit:
            raise ManifestTooLarge(f"it has more than the {limit} bytes that are taken")
        pieces.append(piece)
    return b"".join(pieces)


class FileResponse(Response):
    """A whole local file, sent by the server itself where it can (`http.response.pathsend`)."""

    def __init__(self, path: str, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(None, status, headers=headers)
        self.path = path

    @staticmethod
    def offered(scope: Scope) -> bool:
        return "http.response.pathsend" in scope.get("extensions", ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.pathsend", "path": self.path})


class PiecesResponse(Response):
    """Pieces of a blob that was opened before the status line went out, and is closed whatever happens."""

    def __init__(
        self,
        opened: AbstractAsyncContextManager[AsyncIterator[bytes]],
        status: int,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(None, status, headers=headers)
        self.opened = opened
        self.pieces: AsyncIterator[bytes] | None = None

    async def open(self) -> PiecesResponse:
        """Raises BlobUnknown while a 404 can still be sent."""
        self.pieces = await self.opened.__aenter__()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.pieces is not None, "open() comes first"
        gone = asyncio.ensure_future(_gone(receive))
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_exit(self.opened)
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
                async for piece in self.pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if gone.done():
                        return
                await send({"type": "http.response.body", "body": b""})
        except RegistryError as error:
            # Too late for another status: the missing rest makes the server cut the connection.  The registry has
            # logged the cause.
            scope["moorage.refusal"] = error.code
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
