"""Requests as ASGI scopes built by hand, since HTTP clients normalize URLs and headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message

    Headers = Sequence[tuple[bytes, bytes]]

__all__ = ["Answer", "ask"]


class Answer(NamedTuple):
    status: int
    headers: Headers = ()

    @property
    def location(self) -> bytes:
        return dict(self.headers).get(b"location", b"")


async def ask(
    app: ASGIApp, method: str, target: str, *, headers: Headers = (), body: bytes = b"", errors: str = "replace"
) -> Answer:
    """Status and headers; `errors` is how a path that is no UTF-8 is decoded (our server: `replace`)."""
    path, _, query = target.partition("?")
    given = dict(headers)
    usual = [(b"host", b"h"), (b"content-length", b"%d" % len(body))]
    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": unquote_to_bytes(path).decode(errors=errors),
        "raw_path": path.encode(), "query_string": query.encode(), "scheme": "http", "http_version": "1.1",
        "headers": [*(header for header in usual if header[0] not in given), *headers],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 5000),
    }  # fmt: skip
    started: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            started.append(message)

    await app(scope, receive, send)
    (start,) = started
    return Answer(start["status"], tuple(start["headers"]))
