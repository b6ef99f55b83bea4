"""OpenTelemetry's SDK: checked before any worker starts, set up in each of them.

The SDK replaces values that it cannot read by its defaults, with a warning.  `check` makes these warnings errors:
it builds what `start` builds, except for the thread that sends.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from moorage import __version__
from moorage.startup import StartupError
from moorage.tracing.environment import exporters
from moorage.tracing.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Tracing", "check", "start"]

_QUIET_S: Final = 60.0
_SENDERS: Final = ("opentelemetry", "urllib3", "requests")
"""Loggers of the libraries that send spans."""


class Tracing:
    """Tracing of one worker."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.spans = Spans(provider.get_tracer("moorage", __version__), get_global_textmap())

    def close(self) -> None:
        """Send the remaining spans.  Blocks as long as the collector does: not for the event loop."""
        self._provider.shutdown()


def check(environ: Mapping[str, str]) -> None:
    """Raise `StartupError` for a value that the SDK does not accept.  `environ` must be this process's own."""
    warnings = _Warnings()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(warnings)
    try:
        get_global_textmap()
        for name in exporters(environ):
            _exporter(name).shutdown()
        TracerProvider(resource=_resource("check"), shutdown_on_exit=False)
    except Exception as error:
        raise StartupError(f"OpenTelemetry: {error}") from error
    finally:
        logger.removeHandler(warnings)
    for message in warnings.messages:
        raise StartupError(f"OpenTelemetry: {message}")


def start(environ: Mapping[str, str], instance: str) -> Tracing:
    """Start tracing in this process, with a thread that sends."""
    provider = TracerProvider(resource=_resource(instance), shutdown_on_exit=False)
    for name in exporters(environ):
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Throttle())
    return Tracing(provider)


def _exporter(name: str) -> SpanExporter:
    if name == "otlp":
        return OTLPSpanExporter()
    return ConsoleSpanExporter(formatter=_line)


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}{os.linesep}"


def _resource(instance: str) -> Resource:
    """Describe this process; values of the environment have precedence."""
    defaults = {SERVICE_NAME: "moorage", "service.version": __version__, "service.instance.id": instance}
    configured = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in defaults.items() if name not in configured})


class _Warnings(logging.Handler):
    """Collects the warnings of the SDK, without values that may be secrets."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "header" in message.lower():
            message = "OTEL_EXPORTER_OTLP_HEADERS: expected name=value, comma-separated and URL-encoded"
        if "resource attribute" in message:
            message = "OTEL_RESOURCE_ATTRIBUTES: expected name=value, comma-separated"
        self.messages.append(message)


class _Throttle(logging.Filter):
    """Passes one line a minute of the sending libraries: an unreachable collector must not fill the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next = 0.0
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_SENDERS):
            return True
        now = self._clock()
        if now < self._next:
            self._dropped += 1
            return False
        self._next = now + _QUIET_S
        if self._dropped:
            record.msg, record.args = f"{record.getMessage()} (and {self._dropped} lines since the last)", ()
            self._dropped = 0
        return True
