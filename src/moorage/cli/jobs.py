"""Work on a store that takes minutes or hours: how far it is, and one line when it ends too early.

Above: `copy.py`, `check.py`.  Below: `progress.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from moorage.cli.progress import Meter

__all__ = ["carry_out", "silence_library"]

_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

_T = TypeVar("_T")


def carry_out(
    work: Callable[[Meter], Coroutine[Any, Any, _T]], *, quiet: bool, interrupted: str, stopped: str = ""
) -> _T:
    """What `work` returns, in an event loop of its own.

    Exit status 1 where the store fails or cannot be made, 130 where the user presses Ctrl-C.  `stopped` and
    `interrupted` are what to tell besides: what is to be done, or what holds.
    """
    import asyncio

    from moorage.cli.progress import metre
    from moorage.startup import StartupError
    from moorage.storage.driver import StorageError

    silence_library()
    try:
        with metre(quiet=quiet) as meter:
            return asyncio.run(work(meter))
    except (StorageError, StartupError) as error:
        typer.echo("\n".join(filter(None, (f"stopped: {error}", stopped))), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {interrupted}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def silence_library() -> None:
    """What the library would log is told by the command itself; only failures come through, on standard error."""
    import logging
    import sys

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
