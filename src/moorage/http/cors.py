"""Cross-origin resource sharing (CORS): response headers that let pages of other origins use this registry.

    Origin   Access-Control-Request-Method    answer
    listed   on OPTIONS (a preflight)         204 with what is allowed; no credentials are needed
    listed   else                             unchanged, 401, 404 and redirects included, and readable by the page
    other                                     as if nothing were configured: the browser keeps it from the page

The layer wraps the whole application, so that every response has these headers.  It protects nothing: programs
other than browsers ignore them, and `auth.py` decides on their requests.

Without `http.cors` there is no such layer, and `Access-Control-*` of `http.headers` goes out as written there.

Source: Fetch standard, "HTTP extensions" (CORS protocol).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorage.http.middleware import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CorsMiddleware", "CorsRules"]

_PREFIX: Final = b"access-control-"
_VARY: Final = (b"vary", b"Origin")
_FIRST_BAD_STATUS: Final = 300


@dataclass(frozen=True, slots=True)
class CorsRules:
    """The section `http.cors`; `origins` are spelled as by browsers, or `*`."""

    origins: frozenset[str]
    credentials: bool = False
    max_age_s: int = 600
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS")
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()


class CorsMiddleware:
    """Allows pages of the configured origins to use `app`."""

    def __init__(self, app: ASGIApp, rules: CorsRules) -> None:
        self._app = app
        self._origins = {origin.encode("latin-1") for origin in rules.origins}
        self._every = b"*" in self._origins
        shared = [(b"access-control-allow-credentials", b"true")] if rules.credentials else []
        self._actual = [*shared, (b"access-control-expose-headers", _joined(rules.expose_headers))]
        self._preflight = [
            *shared,
            (b"access-control-allow-methods", _joined(rules.methods)),
            (b"access-control-allow-headers", _joined(rules.allow_headers)),
            (b"access-control-max-age", b"%d" % rules.max_age_s),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        origin, is_preflight = _origin_of(scope)
        allowed = self._allowed(origin)
        if allowed is not None and is_preflight and scope["method"] == "OPTIONS":
            await self._app(scope, receive, _Preflight(send, [*allowed, *self._preflight]).send)
            return
        more = [] if allowed is None else [*allowed, *self._actual]
        if not self._every:
            # For every origin: a cache must not return the response for one origin to another.
            more.append(_VARY)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*_others(message), *more]
            await send(message)

        await self._app(scope, receive, with_headers)

    def _allowed(self, origin: bytes | None) -> list[tuple[bytes, bytes]] | None:
        if origin is None:
            return None
        if self._every:
            return [(b"access-control-allow-origin", b"*")]
        if origin not in self._origins:
            return None
        return [(b"access-control-allow-origin", origin)]


class _Preflight:
    """Return the answer to a preflight: never an error, with the methods of the application.

    After a refused preflight, a browser does not show the page the registry's own answer.
    """

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._headers = headers
        self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = _others(message)
            if message["status"] >= _FIRST_BAD_STATUS:
                self._replaced = True
                headers = []
            # Not for caches on the way; the browser keeps it for Access-Control-Max-Age.
            headers = [*headers, *self._headers, (b"vary", b"Origin, Access-Control-Request-Method")]
            await self._send({"type": "http.response.start", "status": 204, "headers": headers})
        elif not self._replaced:
            await self._send(message)
        elif not message.get("more_body"):
            await self._send({"type": "http.response.body", "body": b""})


def _origin_of(scope: Scope) -> tuple[bytes | None, bool]:
    """Return the page's origin, and whether the request is a preflight."""
    origin, is_preflight = None, False
    for name, value in scope["headers"]:
        if name == b"origin":
            origin = value
        elif name == b"access-control-request-method":
            is_preflight = True
    return origin, is_preflight


def _others(message: Message) -> list[tuple[bytes, bytes]]:
    return [header for header in message["headers"] if not header[0].lower().startswith(_PREFIX)]


def _joined(words: tuple[str, ...]) -> bytes:
    return ", ".join(words).encode("latin-1")
