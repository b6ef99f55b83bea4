"""How far long work has come: a bar on a terminal, a line now and then elsewhere, nothing when asked to be quiet.

Everything here goes to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

__all__ = ["Meter", "metre", "readable"]

_LINE_EVERY_S: Final = 10.0
_KIBI: Final = 1024


def readable(size: float) -> str:
    """`12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < _KIBI or unit == "TiB":
            break
        size /= _KIBI
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


class Meter(Protocol):
    """One bar at a time."""

    def begin(self, what: str, total: int | None, *, is_bytes: bool = False) -> None: ...

    def grow(self, count: int) -> None:
        """The total is larger than was known."""

    def advance(self, count: int) -> None: ...

    def describe(self, text: str) -> None: ...


class _Silent:
    def begin(self, what: str, total: int | None, *, is_bytes: bool = False) -> None: ...

    def grow(self, count: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def describe(self, text: str) -> None: ...


class _Lines:
    """A line when something begins, one every ten seconds, and the final figures when it ends."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._what, self._total, self._done, self._text = "", 0, 0, ""
        self._bytes = False
        self._began = self._told = clock()

    def begin(self, what: str, total: int | None, *, is_bytes: bool = False) -> None:
        self.end()
        self._what, self._total, self._done, self._text, self._bytes = what, total or 0, 0, "", is_bytes
        self._began = self._told = self._clock()
        typer.echo(what, err=True)

    def grow(self, count: int) -> None:
        self._total += count

    def advance(self, count: int) -> None:
        self._done += count
        self._tell()

    def describe(self, text: str) -> None:
        self._text = text
        self._tell()

    def _tell(self) -> None:
        now = self._clock()
        if now - self._told < _LINE_EVERY_S:
            return
        self._told = now
        rate = self._done / max(now - self._began, 1e-9)
        typer.echo(f"{self._what}: {self._figures()}, {self._shown(rate)}/s{self._more()}", err=True)

    def end(self) -> None:
        """Write the figures of what began last, if anything did."""
        if self._what:
            seconds = self._clock() - self._began
            typer.echo(f"{self._what}: {self._figures()} in {seconds:.1f} s{self._more()}", err=True)
        self._what = ""

    def _figures(self) -> str:
        total = f" of {self._shown(self._total)}" if self._total else ""
        return f"{self._shown(self._done)}{total}"

    def _shown(self, count: float) -> str:
        return readable(count) if self._bytes else f"{count:.0f}"

    def _more(self) -> str:
        return f"; {self._text}" if self._text else ""


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, unit="")
        self._total: float = 0

    def begin(self, what: str, total: int | None, *, is_bytes: bool = False) -> None:
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total, unit="bytes" if is_bytes else "")
        self._total = total or 0

    def grow(self, count: int) -> None:
        self._total += count
        self._progress.update(self._task, total=self._total)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)


@contextmanager
def metre(*, quiet: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Meter]:
    """A bar where standard error is a terminal, else lines by `clock`, in seconds."""
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
            shown = readable if task.fields["unit"] == "bytes" else lambda count: f"{count:.0f}"
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
    # Lines of results are shown above the bar, but only where they go to the same terminal.
    with Progress(
        *columns, console=Console(stderr=True), transient=True, expand=True, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        yield _Bar(progress)
