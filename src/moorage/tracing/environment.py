"""OpenTelemetry's variables, checked without its libraries.

Source: the OpenTelemetry specification, "Environment Variables".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_variables", "exporters"]

_BATCH: Final = {
    "OTEL_BSP_MAX_QUEUE_SIZE": 2048,
    "OTEL_BSP_SCHEDULE_DELAY": 5000,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 512,
    "OTEL_BSP_EXPORT_TIMEOUT": 30000,
}
"""The batch processor's variables, with their defaults."""


def exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the configured exporters: `otlp`, `console`, both or none.  Raises `StartupError`."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    words = [word.strip().lower() for word in environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    names = tuple(dict.fromkeys(word for word in words if word not in {"", "none"}))
    for name in names:
        if name not in {"otlp", "console"}:
            raise StartupError(f"expected otlp, console or none, found {name!r}", "OTEL_TRACES_EXPORTER")
    return names


def check_variables(environ: Mapping[str, str]) -> None:
    """Raise `StartupError` for a value that the SDK would replace by its default with a warning."""
    _check_protocol(environ)
    _check_batches(environ)
    _check_endpoint(environ)
    _check_files(environ)


def _check_protocol(environ: Mapping[str, str]) -> None:
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (found := environ.get(name, "").strip()) not in {"", "http/protobuf"}:
            raise StartupError(f"only http/protobuf is supported, found {found!r}", name)


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
