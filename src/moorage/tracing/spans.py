"""Spans: one for each request, with the attributes of OpenTelemetry's semantic conventions for HTTP servers, and
within it one for each action of the storage.

`traceparent` of the request is honoured, whether it comes with a sampling decision or not.  Probes (`/livez`,
`/readyz`) are not traced, nor are storage calls outside of requests.

Source: OpenTelemetry semantic conventions 1.2x, "HTTP server semantic conventions"; W3C Trace Context.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanKind, Status, StatusCode

from moorage.logs.log_setup import trace_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from contextlib import AbstractContextManager

    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, Tracer

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["Spans"]

_METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
_PROBES: Final = frozenset({"/livez", "/readyz"})
_NOTHING: Final = nullcontext()
_FAILED: Final = 500


class Spans:
    """Creates the spans of a process."""

    def __init__(self, tracer: Tracer, propagator: TextMapPropagator) -> None:
        self._tracer = tracer
        self._propagator = propagator

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return `app` with each request in a span."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in _PROBES:
                await app(scope, receive, send)
                return
            above = self._propagator.extract(scope["headers"], getter=_HEADERS)
            span = self._tracer.start_span(_method(scope), above, SpanKind.SERVER, _request_attributes(scope))
            token = contexts.attach(trace.set_span_in_context(span, above))
            trace_id.set(trace.format_trace_id(span.get_span_context().trace_id))
            status = 0

            async def send_observed(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, send_observed)
            finally:
                _record_response(span, scope, status)
                span.end()
                contexts.detach(token)

        return traced

    def storage(self, driver: str, action: str, key: str) -> AbstractContextManager[object]:
        """Return the span of a storage call; a `storage.instrumented.Watch`."""
        if not trace.get_current_span().is_recording():
            return _NOTHING
        attributes = {"moorage.storage.driver": driver, "moorage.storage.key": key}
        return _Ended(self._tracer.start_span(f"storage {action}", attributes=attributes))


class _Ended:
    """Ends a span that is never the current one."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            # Often no failure: a missing link is an ordinary result of the storage.
            self._span.set_attribute("error.type", kind.__name__)
        self._span.end()


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "HTTP"


def _request_attributes(scope: Scope) -> dict[str, str | int]:
    method = _method(scope)
    attributes: dict[str, str | int] = {
        "http.request.method": "_OTHER" if method == "HTTP" else method,
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }
    for name, header in (("user_agent.original", b"user-agent"), ("server.address", b"host")):
        if text := _header(scope, header):
            attributes[name] = text
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    return attributes


def _record_response(span: Span, scope: Scope, status: int) -> None:
    if (route := scope.get("moorage.route")) is not None:
        span.update_name(f"{_method(scope)} {route.pattern}")
        span.set_attribute("http.route", route.pattern)
    if status:
        span.set_attribute("http.response.status_code", status)
    if refusal := scope.get("moorage.refusal"):
        span.set_attribute("moorage.error.code", refusal)
    if status >= _FAILED or not status:
        span.set_attribute("error.type", str(status) if status else "client_gone")
    if status >= _FAILED:
        span.set_status(Status(StatusCode.ERROR))


def _header(scope: Scope, searched: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == searched), "")


class _Headers(Getter["list[tuple[bytes, bytes]]"]):
    """Reads the headers of an ASGI scope."""

    def get(self, carrier: list[tuple[bytes, bytes]], key: str) -> list[str] | None:
        searched = key.lower().encode()
        return [value.decode("latin-1") for name, value in carrier if name == searched] or None

    def keys(self, carrier: list[tuple[bytes, bytes]]) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_HEADERS: Final = _Headers()
