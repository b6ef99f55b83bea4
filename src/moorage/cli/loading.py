"""The configuration, for commands that can do nothing without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moorage.config.load import Loaded

__all__ = ["load_or_exit"]


def load_or_exit(path: Path | None, environ: Mapping[str, str] | None = None) -> Loaded:
    """What `load` gives, by the variables of this process unless others are passed.

    If anything is wrong, all of it is told, and the exit status is 1.
    """
    import os

    from moorage.cli.output import tell
    from moorage.config.load import load
    from moorage.config.problems import ConfigError

    try:
        return load(path, os.environ if environ is None else environ)
    except ConfigError as error:
        tell(error.problems)
        raise typer.Exit(1) from None
