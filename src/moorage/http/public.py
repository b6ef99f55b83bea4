"""`/` and `/token`, which need no credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from starlette.requests import Request

from moorage.http.reply import Reply

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from moorage.http.reply import Answer

__all__ = ["PublicRequest", "TokenServer", "get_root", "issue_token"]

_ROOT: Final = ((b"cache-control", b"no-cache"), (b"content-length", b"0"))


class TokenServer(Protocol):
    """See `token.TokenEndpoint`, which is imported only where it is configured."""

    async def answer(self, request: Request) -> Answer: ...


class PublicRequest(NamedTuple):
    """A request without credentials; `tokens` is None without a token server (`auth.local`)."""

    scope: Scope
    receive: Receive
    tokens: TokenServer | None


async def get_root(request: PublicRequest) -> Answer:
    """`/`: 200 without a body, for every method."""
    del request
    return Reply(200, _ROOT)


async def issue_token(request: PublicRequest) -> Answer:
    """`/token`: see `token.py`."""
    assert request.tokens is not None, "the row is dispatched only with a token server"
    return await request.tokens.answer(Request(request.scope, request.receive))
