"""OpenTelemetry's SDK, looked at before any worker starts, and set up in each of them.

The SDK takes what it cannot read for its defaults, and says so in a warning that scrolls by.  `check` makes those
warnings errors: it builds what `start` will build, except for the thread that sends.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from moorage import __version__
from moorage.startup import StartupError
from moorage.tracing import exporters
from moorage.tracing.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Tracing", "check", "start"]

_QUIET_S: Final = 60.0
_BATCH: Final = {
    "OTEL_BSP_MAX_QUEUE_SIZE": 2048,
    "OTEL_BSP_SCHEDULE_DELAY": 5000,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 512,
    "OTEL_BSP_EXPORT_TIMEOUT": 30000,
}
"""The batch processor's variables, with their defaults."""

_SENDERS: Final = ("opentelemetry", "urllib3", "requests")
"""Loggers of those who send spans."""


class Tracing:
    """What a worker traces with."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.spans = Spans(provider.get_tracer("moorage", __version__), get_global_textmap())

    def close(self) -> None:
        """Send what is left.  Blocks for as long as the collector does; not for the event loop."""
        self._provider.shutdown()


def check(environ: Mapping[str, str]) -> None:
    """Raises `StartupError`.  `environ` must be this process's: the SDK reads its own."""
    _check_protocol(environ)
    _check_batches(environ)
    _check_endpoint(environ)
    _check_files(environ)
    heard = _Heard()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(heard)
    try:
        get_global_textmap()
        for name in exporters(environ):
            _exporter(name).shutdown()
        TracerProvider(resource=_resource("check"), shutdown_on_exit=False)
    except Exception as error:
        raise StartupError(f"OpenTelemetry: {error}") from error
    finally:
        logger.removeHandler(heard)
    for message in heard.messages:
        raise StartupError(f"OpenTelemetry: {message}")


def start(environ: Mapping[str, str], instance: str) -> Tracing:
    """To be called in the process that is traced: it starts a thread."""
    provider = TracerProvider(resource=_resource(instance), shutdown_on_exit=False)
    for name in exporters(environ):
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Rarely())
    return Tracing(provider)


def _exporter(name: str) -> SpanExporter:
    if name == "otlp":
        return OTLPSpanExporter()
    return ConsoleSpanExporter(formatter=_line)


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}{os.linesep}"


def _resource(instance: str) -> Resource:
    """Who we are; what the variables say comes first."""
    ours = {SERVICE_NAME: "moorage", "service.version": __version__, "service.instance.id": instance}
    told = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in told})


def _check_protocol(environ: Mapping[str, str]) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (found := environ.get(name, "").strip()) not in {"", "http/protobuf"}:
            raise StartupError(f"only http/protobuf is spoken, found {found!r}", name)


def _check_batches(environ: Mapping[str, str]) -> None:
    numbers = {}
    for name, default in _BATCH.items():
        text = environ.get(name, "").strip()
        numbers[name] = int(text) if text.isascii() and text.isdigit() else default
        if text and (not text.isdigit() or numbers[name] == 0):
            raise StartupError(f"expected a whole number above 0, found {text!r}", name)
        if name in environ and not text:
            raise StartupError(f"expected a whole number above 0, found nothing; unset it for {default}", name)
    if numbers["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] > numbers["OTEL_BSP_MAX_QUEUE_SIZE"]:
        raise StartupError("expected at most OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE")


def _check_endpoint(environ: Mapping[str, str]) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if not (found := environ.get(name, "")):
            continue
        try:
            parts = urlsplit(found)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise StartupError("expected an http or https URL such as http://localhost:4318", name)


def _check_files(environ: Mapping[str, str]) -> None:
    for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        for name in (f"OTEL_EXPORTER_OTLP_TRACES_{kind}", f"OTEL_EXPORTER_OTLP_{kind}"):
            if path := environ.get(name, ""):
                try:
                    with Path(path).open("rb") as file:
                        file.read(1)
                except OSError as error:
                    raise StartupError(f"cannot read {path}: {error.strerror}", name) from error


class _Heard(logging.Handler):
    """Keeps what the SDK warns of, without what may be a secret."""

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


class _Rarely(logging.Filter):
    """One line a minute of those who send: a collector that is away must not fill the log."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._next = clock, 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_SENDERS):
            return True
        now = self._clock()
        if now < self._next:
            self._left_out += 1
            return False
        self._next = now + _QUIET_S
        if self._left_out:
            record.msg, record.args = f"{record.getMessage()} (and {self._left_out} lines since the last)", ()
            self._left_out = 0
        return True
