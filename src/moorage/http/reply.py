"""Minimal ASGI response with encoded headers, for the endpoints with the most requests.

Starlette's `Response` encodes and copies the headers of every response; here they are the tuples that are sent,
and a list of them may be shared by several responses, so it is never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.types import Receive, Scope, Send

Header = tuple[bytes, bytes]

__all__ = ["API_VERSION", "Answer", "Header", "Reply", "encoded"]

API_VERSION: Final[Header] = (b"docker-distribution-api-version", b"registry/2.0")
"""By this header old Docker engines know a registry."""


class Answer(Protocol):
    """Interface of `Reply` and of Starlette's responses: an ASGI application that sends one response."""

    status_code: int

    @property
    def raw_headers(self) -> Any: ...
    @raw_headers.setter
    def raw_headers(self, value: list[Header], /) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Reply:
    """Response with status, headers and body, sent as given; HEAD gets no body.  Content-Length is not added."""

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
    """Return headers as bytes; names must be in lower case."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
