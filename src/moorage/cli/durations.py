"""Durations on the command line, in the notation of the configuration: `90s`, `10m`, `168h`."""

from __future__ import annotations

import typer

__all__ = ["parse_seconds"]


def parse_seconds(text: str) -> float:
    """Return the seconds of a duration of 0 or more; a parser for `typer.Option`.  Raises BadParameter."""
    from moorage.config.scalars import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, found {text!r}") from None
    if seconds < 0:
        raise typer.BadParameter(f"expected a duration that is not negative, found {text!r}")
    return seconds
