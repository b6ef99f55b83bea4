"""The configuration, for commands that can do nothing without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moorage.config.load import Loaded
    from moorage.config.model import Settings

__all__ = ["load_or_exit", "require_directory"]


def load_or_exit(path: Path | None, environ: Mapping[str, str] | None = None) -> Loaded:
    """What `load` gives, by the variables of this process unless others are passed.

    If anything is wrong, all of it is told, and the exit status is 1.
    """
    import os

    from moorage.cli.problems import tell
    from moorage.config.load import load
    from moorage.config.problems import ConfigError

    try:
        return load(path, os.environ if environ is None else environ)
    except ConfigError as error:
        tell(error.problems)
        raise typer.Exit(1) from None


def require_directory(settings: Settings, *, may_be_missing: bool = False) -> None:
    """Exit with status 1 unless the data directory can be read; other stores report by themselves.

    A missing one, usually a volume that is not mounted, would pass for an empty registry without any damage.
    """
    from pathlib import Path

    from moorage.storage.filesystem.data_directory import check_readable

    if settings.storage.filesystem is None:
        return
    root = Path(settings.storage.filesystem.rootdirectory).absolute()
    try:
        check_readable(str(root))
    except FileNotFoundError:
        if may_be_missing and not root.is_symlink():
            return
        reason = "there is no such directory; is its volume mounted?"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        return
    typer.echo(f"storage.filesystem.rootdirectory cannot be used: {root}: {reason}", err=True)
    raise typer.Exit(1)
