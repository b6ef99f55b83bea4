"""Start check of tracing, called once by the master."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage import extras
from moorage.startup import StartupError
from moorage.tracing.environment import check_variables, exporters

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check"]


def check(environ: Mapping[str, str]) -> None:
    """Raise `StartupError` if an exporter is configured that cannot work.

    `environ` must be this process's: the SDK reads its own.
    """
    if not exporters(environ):
        return
    extras.require("tracing", "OTEL_TRACES_EXPORTER", "opentelemetry")
    check_variables(environ)
    try:
        from moorage.tracing import setup  # noqa: PLC0415  only if an exporter is configured
    except ValueError as error:
        # The SDK reads this one variable while it is imported.
        raise StartupError(str(error), "OTEL_PROPAGATORS") from error
    setup.check(environ)
