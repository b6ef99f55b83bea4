"""Spans of requests and of the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from moorage.logs.log_setup import trace_id
from moorage.storage.driver import Key, KeyMissing
from moorage.storage.instrumented import InstrumentedDriver
from moorage.storage.memory import MemoryDriver
from moorage.tracing.spans import Spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from moorage.http.middleware import ASGIApp, Message, Receive, Scope, Send

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Route:
    label = "manifest"
    pattern = "/v2/<name>/manifests/<reference>"


class Traced:
    """An application in spans, and what they were."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = Spans(provider.get_tracer("test"), get_global_textmap())
        self.driver = InstrumentedDriver(MemoryDriver(), self.spans.storage)

    async def ask(
        self, app: ASGIApp, method: str = "GET", path: str = "/v2/a/manifests/x", **headers: bytes
    ) -> None:
        scope: dict[str, Any] = {
            "type": "http", "method": method, "path": path, "scheme": "http", "http_version": "1.1",
            "client": ("192.0.2.1", "1"), "query_string": b"_state=secret",
            "headers": [(name.replace("_", "-").encode(), value) for name, value in headers.items()],
        }  # fmt: skip

        async def receive() -> Message:
            raise AssertionError("nothing is read")

        async def send(_: Message) -> None:
            """Discard the message."""

        await self.spans.around(app)(scope, receive, send)

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


def answering(status: int, **more: Any) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update({f"moorage.{name}": value for name, value in more.items()})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


@pytest.fixture
def traced() -> Traced:
    return Traced()


async def test_a_request_is_a_span_by_method_and_route(traced: Traced) -> None:
    """Names of few values, which backends group by; no names of repositories, no tokens."""
    await traced.ask(answering(200, route=Route), user_agent=b"docker/1", host=b"r.example:5000")
    (span,) = traced.finished
    assert span.name == "GET /v2/<name>/manifests/<reference>"
    assert span.kind is SpanKind.SERVER
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET", "url.path": "/v2/a/manifests/x", "url.scheme": "http",
        "network.protocol.version": "1.1", "user_agent.original": "docker/1", "server.address": "r.example:5000",
        "client.address": "192.0.2.1", "http.route": Route.pattern, "http.response.status_code": 200,
    }  # fmt: skip
    assert span.status.status_code is StatusCode.UNSET


async def test_the_caller_s_trace_goes_on(traced: Traced) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(trace_id.get())
        await answering(200)(scope, receive, send)

    await traced.ask(app, traceparent=PARENT)
    (span,) = traced.finished
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c" == seen[0]
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"


async def test_a_caller_who_does_not_sample_is_obeyed(traced: Traced) -> None:
    await traced.ask(answering(200), traceparent=PARENT[:-1] + b"0")
    assert traced.finished == ()


async def test_refusals_and_failures_show(traced: Traced) -> None:
    """A 404 would look like a failure of the server."""
    await traced.ask(answering(404, refusal="MANIFEST_UNKNOWN"))
    await traced.ask(answering(503))
    first, second = traced.finished
    assert (first.attributes or {})["moorage.error.code"] == "MANIFEST_UNKNOWN"
    assert first.status.status_code is StatusCode.UNSET
    assert second.status.status_code is StatusCode.ERROR
    assert (second.attributes or {})["error.type"] == "503"


async def test_a_request_without_an_answer_ends_its_span(traced: Traced) -> None:
    async def app(_: Scope, __: Receive, ___: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await traced.ask(app)
    (span,) = traced.finished
    assert (span.attributes or {})["error.type"] == "client_gone"


async def test_methods_that_nobody_knows_are_one(traced: Traced) -> None:
    await traced.ask(answering(405), "BREW")
    (span,) = traced.finished
    assert span.name == "HTTP"
    assert (span.attributes or {})["http.request.method"] == "_OTHER"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_are_not_traced(traced: Traced, path: str) -> None:
    """One every few seconds, for ever."""
    await traced.ask(answering(200), path=path)
    assert traced.finished == ()


async def test_the_storage_s_actions_are_within(traced: Traced) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await traced.driver.write(Key("a/b"), b"x")
        with pytest.raises(KeyMissing):
            await traced.driver.read(Key("a/c"))
        await answering(200)(scope, receive, send)

    await traced.ask(app)
    write, read, request = traced.finished
    assert (write.name, read.name) == ("storage PutContent", "storage GetContent")
    assert write.parent is not None
    assert write.parent.span_id == request.context.span_id
    assert dict(write.attributes or {}) == {"moorage.storage.driver": "inmemory", "moorage.storage.key": "a/b"}
    assert (read.attributes or {})["error.type"] == "KeyMissing"


async def test_what_no_request_asked_for_is_not_traced(traced: Traced) -> None:
    """Health checks and the purger would begin a trace with each look."""
    await traced.driver.probe()
    assert traced.finished == ()
