"""`/` and `/token`, which need no credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.requests import Request

from moorage.http.reply import Reply

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from moorage.http.reply import Answer
    from moorage.http.token import TokenEndpoint

__all__ = ["PublicRequest", "get_root", "issue_token"]

_ROOT: Final = ((b"cache-control", b"no-cache"), (b"content-length", b"0"))


class PublicRequest(NamedTuple):
    """A request without credentials; `tokens` is None without a token server (`auth.local`)."""

    scope: Scope
    receive: Receive
    tokens: TokenEndpoint | None


async def get_root(request: PublicRequest) -> Answer:
    """`/`: 200 without a body, for every method."""
    del request
    return Reply(200, _ROOT)


async def issue_token(request: PublicRequest) -> Answer:
    """`/token`: see `token.py`, which is imported only with a token server."""
    assert request.tokens is not None, "the row is dispatched only with a token server"
    return await request.tokens.answer(Request(request.scope, request.receive))
