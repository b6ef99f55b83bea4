"""One request and its answer, as little above ASGI as handlers can live with.

Starlette's own objects were measured first: parsing every header into a mapping and building each answer from
a dict costs about 25 us per request here, half of what a manifest may cost in all.  These read the two or three
headers that a handler asks for.

A handler gets a `Request` and returns a `Response`; `streaming.py` has the responses that are not one small
piece of memory.  `Outgoing` is the one place that speaks ASGI's messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping, Sequence

    from moorage.http.options import HttpOptions
    from moorage.http.streaming import RequestBody
    from moorage.registry.interface import Registry

__all__ = [
    "API_VERSION",
    "ASGIApp",
    "Answer",
    "Header",
    "Message",
    "Outgoing",
    "Receive",
    "Request",
    "Response",
    "Scope",
    "Send",
]

# ASGI's dictionaries hold values of any type (asgiref.typing needs one TypedDict for each kind of message).
Scope = dict[str, Any] if not TYPE_CHECKING else MutableMapping[str, Any]
Message = dict[str, Any] if not TYPE_CHECKING else MutableMapping[str, Any]
if TYPE_CHECKING:
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
else:
    Receive = Send = ASGIApp = Any

Header = tuple[bytes, bytes]

API_VERSION: Final[Header] = (b"docker-distribution-api-version", b"registry/2.0")
"""On every answer: Docker engines up to 20.10 and many proxy recipes recognise a registry by it."""

_NO_LENGTH: Final = frozenset({204, 304})


class Request:
    """What a handler may ask.  Parameters come from the query only: a body is content, whatever it claims."""

    __slots__ = ("_query", "body", "method", "options", "params", "registry", "scope")

    def __init__(self, scope: Scope, body: RequestBody, registry: Registry, options: HttpOptions) -> None:
        self.scope = scope
        self.body = body
        self.registry = registry
        self.options = options
        self.method: str = scope["method"]
        self.params: dict[str, str] = {}
        self._query: list[tuple[str, str]] | None = None

    @property
    def path(self) -> str:
        """Percent-decoded; bytes that are not UTF-8 have become U+FFFD, which no name or tag may hold."""
        path: str = self.scope["path"]
        return path

    @property
    def is_head(self) -> bool:
        return self.method == "HEAD"

    def header(self, name: bytes) -> str | None:
        """The first value under the lower-case `name`."""
        for key, value in self.scope["headers"]:
            if key == name:
                text: str = value.decode("latin-1")
                return text
        return None

    def headers(self, name: bytes) -> str | None:
        """All values under the lower-case `name`, joined as RFC 9110 section 5.3 allows for lists."""
        values = [value.decode("latin-1") for key, value in self.scope["headers"] if key == name]
        return ", ".join(values) if values else None

    @property
    def query(self) -> list[tuple[str, str]]:
        if self._query is None:
            text = self.scope["query_string"].decode("latin-1")
            self._query = parse_qsl(text, keep_blank_values=True) if text else []
        return self._query

    def parameter(self, name: str) -> str:
        """The first value of a query parameter; empty and absent are the same, as in the reference."""
        return next((value for key, value in self.query if key == name), "")

    def parameters(self, name: str) -> list[str]:
        return [value for key, value in self.query if key == name]


class Outgoing:
    """The way back to the client.  `started`: the status line is gone and nothing can be taken back.

    `extra` are headers of every answer (this API's version, what the configuration adds).
    """

    __slots__ = ("_send", "body", "extra", "is_head", "pathsend", "started")

    def __init__(self, scope: Scope, send: Send, body: RequestBody) -> None:
        self._send = send
        self.body = body
        self.extra: Sequence[Header] = (API_VERSION,)
        self.is_head: bool = scope["method"] == "HEAD"
        self.pathsend = "http.response.pathsend" in (scope.get("extensions") or ())
        self.started = False

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.extra]})

    async def piece(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def file(self, path: str) -> None:
        await self._send({"type": "http.response.pathsend", "path": path})


class Answer(Protocol):
    """What a handler returns.  `send` may still raise a refusal as long as nothing has been started."""

    async def send(self, out: Outgoing) -> None: ...


class Response:
    """A small answer: always with its Content-Length, which a HEAD keeps although it loses the body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Sequence[Header] = (), body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def send(self, out: Outgoing) -> None:
        headers = self.headers
        if self.status not in _NO_LENGTH:
            headers = [*headers, (b"content-length", b"%d" % len(self.body))]
        body = b"" if out.is_head else self.body
        await out.start(self.status, headers)
        if out.body.unread:
            # The refusal is on its way; taking the rest of the body in keeps the kernel from answering it
            # with a reset, which would destroy the refusal before the client has read it.
            await out.piece(body, more=True)
            await out.body.drain()
            await out.piece(b"", more=False)
        else:
            await out.piece(body, more=False)


class HeadResponse(Response):
    """The answer to a HEAD of something of `length` bytes that was never read."""

    __slots__ = ("length",)

    def __init__(self, status: int, headers: Sequence[Header], length: int) -> None:
        super().__init__(status, headers)
        self.length = length

    async def send(self, out: Outgoing) -> None:
        await out.start(self.status, [*self.headers, (b"content-length", b"%d" % self.length)])
        await out.piece(b"", more=False)
