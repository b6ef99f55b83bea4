"""Progress of commands that take minutes or hours: a bar on a terminal, else a line every ten seconds.

It is written to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from rich.progress import Progress

__all__ = ["Meter", "format_bytes", "format_count", "progress_meter", "run_with_progress"]

_LINE_EVERY_S: Final = 10.0
_KIBI: Final = 1024
_INTERRUPTED: Final = 130
"""128 + SIGINT, the exit status that shells use."""

_T = TypeVar("_T")


def run_with_progress(
    work: Callable[[Meter], Coroutine[Any, Any, _T]], *, quiet: bool, interrupted: str, stopped: str = ""
) -> _T:
    """Run `work` in an event loop of its own and return its result.

    Exits with status 1 where the store fails or cannot be made, 130 after Ctrl-C.  `stopped` and `interrupted` are
    added to the message then: what the user can do, or what is kept.
    """
    import asyncio

    from moorage.cli.problems import log_errors_only
    from moorage.startup import StartupError
    from moorage.storage.driver import StorageError

    log_errors_only()
    try:
        with progress_meter(quiet=quiet) as meter:
            return asyncio.run(work(meter))
    except (StorageError, StartupError) as error:
        typer.echo("\n".join(filter(None, (f"stopped: {error}", stopped))), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"interrupted; {interrupted}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def format_bytes(size: float) -> str:
    """Return a size in bytes as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < _KIBI or unit == "TiB":
            break
        size /= _KIBI
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def format_count(count: int, noun: str, plural: str = "") -> str:
    """Return a number of things as `1 tag` or `2 tags`; `plural` if it is not formed by an s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


class Meter(Protocol):
    """Progress of one phase at a time."""

    def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None:
        """End the phase before and begin another; `total` is None if it is not known."""

    def grow(self, count: int) -> None:
        """Add to the total."""

    def advance(self, count: int) -> None:
        """Add to what is done."""

    def describe(self, text: str) -> None:
        """Replace the text that is shown beside the figures."""


class _Silent:
    def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None: ...

    def grow(self, count: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def describe(self, text: str) -> None: ...


class _Lines:
    """A line when a phase begins, one every ten seconds, and the final figures when it ends."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._phase = ""
        self._total = 0
        self._done = 0
        self._text = ""
        self._bytes = False
        self._began = clock()
        self._last_line = self._began

    def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None:
        self.end()
        self._phase = phase
        self._total = total or 0
        self._done = 0
        self._text = ""
        self._bytes = is_bytes
        self._began = self._clock()
        self._last_line = self._began
        typer.echo(phase, err=True)

    def grow(self, count: int) -> None:
        self._total += count

    def advance(self, count: int) -> None:
        self._done += count
        self._print_line()

    def describe(self, text: str) -> None:
        self._text = text
        self._print_line()

    def _print_line(self) -> None:
        now = self._clock()
        if now - self._last_line < _LINE_EVERY_S:
            return
        self._last_line = now
        rate = self._done / max(now - self._began, 1e-9)
        typer.echo(f"{self._phase}: {self._figures()}, {self._format(rate)}/s{self._suffix()}", err=True)

    def end(self) -> None:
        """Print the final figures of the current phase, if there is one."""
        if self._phase:
            seconds = self._clock() - self._began
            typer.echo(f"{self._phase}: {self._figures()} in {seconds:.1f} s{self._suffix()}", err=True)
        self._phase = ""

    def _figures(self) -> str:
        # A total may be an estimate: one that was exceeded is none.
        total = f" of {self._format(self._total)}" if self._total and self._total >= self._done else ""
        return f"{self._format(self._done)}{total}"

    def _format(self, count: float) -> str:
        return format_bytes(count) if self._bytes else f"{count:.0f}"

    def _suffix(self) -> str:
        return f"; {self._text}" if self._text else ""


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, unit="")
        self._total: float = 0

    def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(phase, total=total, unit="bytes" if is_bytes else "")
        self._total = total or 0

    def grow(self, count: int) -> None:
        self._total += count
        self._progress.update(self._task, total=self._total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)


@contextmanager
def progress_meter(*, quiet: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Meter]:
    """Show a bar if standard error is a terminal, else lines, timed by `clock` (seconds); nothing if `quiet`."""
    if quiet:
        yield _Silent()
        return
    if not sys.stderr.isatty():
        lines = _Lines(clock)
        try:
            yield lines
        finally:
            lines.end()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Amount(ProgressColumn):
        """`1.2 GiB of 3.4 GiB, 120.0 MiB/s`."""

        def render(self, task: Task) -> Text:
            shown: Callable[[float], str]
            shown = format_bytes if task.fields["unit"] == "bytes" else lambda count: f"{count:.0f}"
            total = f" of {shown(task.total)}" if task.total else ""
            rate = f", {shown(task.speed)}/s" if task.speed else ""
            return Text(f"{shown(task.completed)}{total}{rate}")

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        BarColumn(bar_width=16),
        Amount(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True),
    )
    # Results are printed above the bar, but only where standard output is the same terminal.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, expand=True, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        yield _Bar(progress)
