"""Problems on standard error, and the commands that end because of them.

One line each, coloured on a terminal, never wrapped or cut in a file or pipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from moorage.config.load import Loaded
    from moorage.config.model import Settings
    from moorage.config.problems import Problem

__all__ = ["load_or_exit", "log_errors_only", "printable", "report", "require_data_directory"]

_STYLES: Final = {"error": "bold red", "warning": "yellow"}


def report(problems: Iterable[Problem], *, unknown_as: str = "warning") -> None:
    """Print one line for each problem; errors last, next to the prompt."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    labels = {"unknown": unknown_as, "fault": "error"}
    labelled = [(labels.get(problem.kind, problem.kind), problem) for problem in problems]
    labelled.sort(key=lambda entry: (entry[0] == "error", entry[1].origin.source, entry[1].origin.line or 0))
    for label, problem in labelled:
        console.print(Text.assemble((f"{label}: ", _STYLES[label]), printable(str(problem))))


def printable(text: str) -> str:
    """Return `text` without control characters of a terminal, and encodable in UTF-8."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
                    for char in text)  # fmt: skip
    return shown.encode(errors="backslashreplace").decode()


def load_or_exit(path: Path | None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Load the configuration with the variables of `environ`, by default those of this process.

    Reports every error and exits with status 1 if there is one.
    """
    import os

    from moorage.config.load import load
    from moorage.config.problems import ConfigError

    try:
        return load(path, os.environ if environ is None else environ)
    except ConfigError as error:
        report(error.problems)
        raise typer.Exit(1) from None


def require_data_directory(settings: Settings, *, may_be_missing: bool = False) -> None:
    """Exit with status 1 unless the data directory can be read; other stores report errors themselves.

    A missing one, usually a volume that is not mounted, would be taken for an empty registry without any damage.
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


def log_errors_only() -> None:
    """Log errors only, to standard error: the command reports the rest itself."""
    import logging
    import sys

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
