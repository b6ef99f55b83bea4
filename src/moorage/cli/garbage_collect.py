"""`registry garbage-collect`: fails with a reason, so that a cron job for CNCF Distribution is noticed."""

from __future__ import annotations

import typer

__all__ = ["garbage_collect"]


def garbage_collect() -> None:
    """Not available in this version; exits with 1.

    Example: registry garbage-collect /etc/docker/registry/config.yml
    """
    typer.echo(
        "error: garbage-collect is not available in this version of Moorage; nothing was removed. "
        "CNCF Distribution's `registry garbage-collect` works on the same storage while Moorage is stopped.",
        err=True,
    )
    raise typer.Exit(1)
