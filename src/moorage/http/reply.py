"""A whole small answer, in the fewest steps: the endpoints that are asked most often make one per request.

Starlette's `Response` builds the headers of each answer from text again and copies them; here they are the tuples
that are sent, and lists of them may be shared by answers (`headers`, never changed).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope, Send

Header = tuple[bytes, bytes]

__all__ = ["Answer", "Header", "Reply", "encoded"]


class Answer(Protocol):
    """A `Reply`, or one of Starlette's responses: an ASGI application that sends one answer."""

    status_code: int

    @property
    def raw_headers(self) -> Any: ...
    @raw_headers.setter
    def raw_headers(self, value: list[Header], /) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Reply:
    """Status, headers and body as they are sent; HEAD gets no body.  Adds no header, Content-Length neither."""

    __slots__ = ("body", "raw_headers", "status_code")

    def __init__(self, status: int, headers: Sequence[Header], body: bytes = b"") -> None:
        self.status_code = status
        self.raw_headers: Any = headers
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body})


def encoded(headers: Mapping[str, str]) -> list[Header]:
    """Headers as bytes; names must be in lower case."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
