"""The ASGI application: dispatches requests to the handlers of `routes.py`; errors become JSON.

Every answer carries `Docker-Distribution-API-Version`, by which old Docker engines know a registry; answers of a
route also carry the configured `http.headers`.

Source: docs/reference/http-api.md, section 1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog
from starlette.datastructures import QueryParams

from moorage.errors import (
    LoopDetected,
    MethodUnknown,
    NameUnknown,
    RangeInvalid,
    RangeNotSatisfiable,
    RegistryError,
    RouteUnknown,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UpstreamLimits,
)
from moorage.http import routes
from moorage.http.auth import Guard
from moorage.http.context import Call
from moorage.http.errors import to_response, unexpected
from moorage.http.headers import lines_of
from moorage.http.public import PublicRequest
from moorage.http.reply import API_VERSION, Answer, Reply
from moorage.http.streaming import ClientDisconnected
from moorage.http.uploads import place_headers
from moorage.http.urls import path_outside
from moorage.registry.interface import UploadStatus
from moorage.types import parse_repo_name
from moorage.via import RECEIVED_VIA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

    from moorage.auth.access import Authority
    from moorage.http.options import HttpOptions
    from moorage.http.routes import Route
    from moorage.http.token import TokenEndpoint
    from moorage.registry.interface import Registry

__all__ = ["create_app"]

_UNCONFIGURED: Final = (API_VERSION,)
_EMPTY: Final = (b"content-length", b"0")
_TOKEN: Final = routes.TOKEN.pattern
_DOTS_OR_DOUBLE: Final = re.compile(r"/(?:\.{0,2})/|/\.{1,2}$")
_IN_PATH: Final = "/:="
_IN_QUERY: Final = "!$&'()*+,;=:@/?%"
"""Characters left unescaped in a Location, beside letters, digits and `-._~` (RFC 3986 section 3)."""
_NO_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
"""A query keeps its escapes; a percent sign that begins none is escaped."""
_log: Final = structlog.get_logger("moorage.http")


def create_app(
    registry: Registry,
    options: HttpOptions,
    authority: Authority | None = None,
    tokens: TokenEndpoint | None = None,
) -> ASGIApp:
    """Return the registry as an ASGI application, without logs, metrics and health checks (`middleware.py`).

    Without `authority` every client may do everything; without `tokens` there is no `/token`.
    """
    return _App(registry, options, authority, tokens)


class _App:
    def __init__(
        self,
        registry: Registry,
        options: HttpOptions,
        authority: Authority | None,
        tokens: TokenEndpoint | None,
    ) -> None:
        self._registry = registry
        self._options = options
        self._tokens = tokens
        self._drop_untrusted_headers = options.clients.drop_untrusted_headers
        self._guard = None if authority is None else Guard(authority)
        self._mirrors = bool(options.via or options.namespaces)
        configured = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in options.headers]
        self._added = (API_VERSION, *configured)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        self._drop_untrusted_headers(scope)
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnected:
            # The server closes the connection; a status is sent for the access log only (nginx's 499).
            response = Reply(499, ())
        if scope["method"] == "HEAD" and type(response) is not Reply:
            await _without_body(response, scope, receive, send)
            return
        try:
            await response(scope, receive, send)
        except RegistryError as error:
            # Raised by `send` while nothing of the response has been sent (`server.http1.exchange`).
            scope["moorage.refusal"] = error.code
            refusal = to_response(error, _headers_of(error, None))
            refusal.raw_headers = [*refusal.raw_headers, *self._added]
            await refusal(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = scope["path"], scope["method"]
        if path == "/":
            return await self._public(routes.ROOT, scope, receive)
        added: Sequence[tuple[bytes, bytes]] = _UNCONFIGURED
        call: Call | None = None
        try:
            if not path.endswith(("/", "/v2")) and "//" not in path and "/." not in path:
                pass  # as nearly all
            elif (redirect := self._redirect(scope, receive, path)) is not None:
                return redirect
            inner = path if self._options.prefix == "/" else self._inner(path)
            if inner == _TOKEN and self._tokens is not None:
                return await self._public(routes.TOKEN, scope, receive)
            if method == "OPTIONS":
                return self._options_answer(inner)
            # Also for a method that is not offered: what is counted and traced is counted by route.
            route, params = routes.find(inner)
            scope["moorage.route"] = route
            found = route.methods.get(method)  # without a call, which would take 1% of a small request
            if found is None or self._options.readonly:
                found = route.endpoint(method, readonly=self._options.readonly)
            handler, access = found
            added = self._added
            if self._mirrors:
                self._adapt(scope, params)
            call = Call(scope, receive, self._registry, self._options, params)
            if self._guard is not None:
                call.principal = await self._guard.admit(call, access)
                scope["moorage.user"] = call.principal.name
            response = await handler(call)
        except RegistryError as error:
            # Not the error itself: it knows this frame, and would keep all of the request until a collection.
            scope["moorage.refusal"] = error.code
            if isinstance(error, Unauthorized):
                scope["moorage.challenge"] = error.challenge
            response = to_response(error, _headers_of(error, call))
        except ClientDisconnected:
            raise
        except Exception:  # noqa: BLE001  a bug: logged with its traceback, not sent to the client
            _log.exception("unexpected error", method=method, path=path)
            response = unexpected()
        response.raw_headers = [*response.raw_headers, *added]
        return response

    def _adapt(self, scope: Scope, params: dict[str, str]) -> None:
        """Apply containerd's parameter `ns`: the name is one of that registry.

        Raises LoopDetected for a request that this registry itself has sent, also through other mirrors, and
        NameUnknown for the name of another registry: a local repository of the same name has other images.
        """
        options = self._options
        received = b", ".join(lines_of(scope, b"via"))
        if options.via and options.via in received:
            raise LoopDetected
        RECEIVED_VIA.set(received.decode("latin-1"))
        if options.namespaces and "name" in params and scope["query_string"]:
            namespace = QueryParams(scope["query_string"]).get("ns", "").lower()
            if namespace and (prefix := options.namespaces.get(namespace)) is None:
                raise NameUnknown(
                    f"this registry does not mirror {namespace}; add it to proxy.upstreams, or to proxy.names "
                    "if it is a name of this registry"
                )
            if namespace and prefix:
                params["name"] = f"{prefix}/{params['name']}"

    async def _public(self, route: Route[PublicRequest], scope: Scope, receive: Receive) -> Answer:
        method = scope["method"]
        if method == "OPTIONS" and routes.ANY not in route.methods:
            return Reply(204, [(b"allow", ", ".join(route.allowed()).encode())])
        handler, _ = route.endpoint(method)
        return await handler(PublicRequest(scope, receive, self._tokens))

    def _inner(self, path: str) -> str:
        """Return the path without the configured prefix, `/v2/...`.  Raises RouteUnknown."""
        prefix = self._options.prefix
        if not path.startswith(prefix):
            raise RouteUnknown(path)
        return path[len(prefix) - 1 :]

    def _redirect(self, scope: Scope, receive: Receive, path: str) -> Answer | None:
        """Return a 301 to the canonical spelling, for reads only: many clients turn a redirected POST into a GET.

        Raises what the endpoint raises for an invalid name, digest or tag: a redirect always leads to an endpoint.
        """
        prefix = self._options.prefix
        clean = _resolved(path)
        if scope["method"] not in {"GET", "HEAD"} or not clean.startswith(prefix):
            return None
        inner = clean[len(prefix) - 1 :]
        if inner == "/v2":
            inner = "/v2/"
        elif not inner.startswith("/v2/"):
            return None
        elif inner.endswith("/") and inner != "/v2/" and not inner.endswith("/blobs/uploads/"):
            inner = inner.rstrip("/")
        if f"{prefix}{inner[1:]}" == path:
            return None
        route, params = routes.find(inner)
        route.endpoint(scope["method"])
        Call(scope, receive, self._registry, self._options, params).check_path()
        query = quote(_NO_ESCAPE.sub(b"%25", scope["query_string"]), safe=_IN_QUERY)
        target = path_outside(self._options, quote(inner[1:], safe=_IN_PATH)) + (f"?{query}" if query else "")
        return Reply(301, [(b"location", target.encode("latin-1")), _EMPTY, API_VERSION])

    def _options_answer(self, inner: str) -> Answer:
        for route in routes.API:
            if route.match(inner):
                allowed = ", ".join(route.allowed(readonly=self._options.readonly))
                return Reply(204, [(b"allow", allowed.encode()), *self._added])
        raise RouteUnknown(inner)


def _resolved(path: str) -> str:
    """Return `path` without empty and dot segments; a final slash is kept."""
    if not ("//" in path or "/." in path) or not _DOTS_OR_DOUBLE.search(path):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    return "/" + "/".join(parts) + ("/" if parts and path.endswith("/") else "")


def _headers_of(error: RegistryError, call: Call | None) -> dict[str, str]:
    """Return the headers of an error response."""
    if isinstance(error, MethodUnknown):
        return {"allow": ", ".join(error.allowed)}
    if isinstance(error, Unauthorized):
        return {"www-authenticate": error.challenge}
    if isinstance(error, TooManyRequests | Unavailable | UpstreamLimits) and error.retry_after_s:
        return {"retry-after": str(error.retry_after_s)}
    if isinstance(error, RangeNotSatisfiable):
        return {"content-range": f"bytes */{error.size}"}
    if isinstance(error, RangeInvalid) and error.uuid and call is not None:
        status = UploadStatus(error.uuid, error.offset, error.state)
        headers = place_headers(call, parse_repo_name(call.params["name"]), status)
        del headers["content-length"]
        return headers
    return {}


async def _without_body(response: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the headers of a response to HEAD, Content-Length included, without the body."""

    async def headers_only(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            await send(message)
        elif not message.get("more_body"):
            await send({"type": "http.response.body", "body": b""})

    await response(scope, receive, headers_only)  # type: ignore[arg-type]  # a MutableMapping is a dict here


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
