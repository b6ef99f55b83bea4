"""Traces by OpenTelemetry, for whoever sets OTEL_TRACES_EXPORTER; nothing of it is imported otherwise.

    environment ─► setup.py    looked at once by the master, set up in every worker
                   spans.py    a span for each request, and within it one for each storage action

Configured by OpenTelemetry's standard variables and by nothing else.  Unlike the reference, which sends to
localhost:4318 unless told not to, no exporter is the default: silence is.

Source: docs/reference/configuration.md, section 15; the OpenTelemetry specification, "Environment Variables".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage import extras
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check", "exporters"]


def exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """`otlp`, `console`, both or none.  Raises `StartupError`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    words = [word.strip().lower() for word in environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    wanted = tuple(dict.fromkeys(word for word in words if word not in {"", "none"}))
    for word in wanted:
        if word not in {"otlp", "console"}:
            raise StartupError(f"expected otlp, console or none, found {word!r}", "OTEL_TRACES_EXPORTER")
    return wanted


def check(environ: Mapping[str, str]) -> bool:
    """Whether there is anything to trace for.  Raises `StartupError` for what cannot be honoured.

    `environ` must be this process's: the SDK reads its own.
    """
    if not exporters(environ):
        return False
    extras.require("tracing", "OTEL_TRACES_EXPORTER", "opentelemetry")
    try:
        from moorage.tracing import setup  # noqa: PLC0415  only where it is wanted
    except ValueError as error:
        # The one variable that is read while the library is imported.
        raise StartupError(str(error), "OTEL_PROPAGATORS") from error
    setup.check(environ)
    return True
