"""`moorage health`: liveness check of the registry on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli import liveness
from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

__all__ = ["health"]


def health(
    config: Config = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, max=3600, metavar="SECONDS", help="Longest time to wait.")
    ] = liveness.DEFAULT_TIMEOUT_S,
) -> None:
    """Query /livez of the running registry; exit status 0 or 1.

    Reads the configuration that `serve` reads, and connects to http.addr. For HEALTHCHECK of a container image:
    full disks, failed health checks and unreachable caches do not matter, since a restart repairs none of them.

    Example: moorage health --timeout 3
    """
    raise typer.Exit(liveness.run(config, timeout))
