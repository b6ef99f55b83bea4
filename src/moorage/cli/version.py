"""`moorage version`."""

from __future__ import annotations

import platform

import typer

from moorage import __version__

__all__ = ["version"]


def version() -> None:
    """Show the version of Moorage and of Python.

    Example: moorage version
    """
    typer.echo(f"moorage {__version__} ({platform.python_implementation()} {platform.python_version()})")
