"""A run of `moorage garbage-collect`: progress, the report for humans or machines, the exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.gc.options import CollectionOptions
    from moorage.gc.report import Report

__all__ = ["run"]

_TIMES: Final = "the times of storage.delete.undo and storage.maintenance.garbagecollection.grace"
_UNLINKED: Final = "(in no repository)"
_CONTINUE: Final = "nothing that is needed was removed; the next run continues"


def run(settings: Settings, options: CollectionOptions, *, quiet: bool, as_json: bool) -> None:
    """Collect, print the report and exit."""
    import json

    from moorage.cli.progress import format_count, run_with_progress
    from moorage.gc.errors import CollectionRefused
    from moorage.gc.report import FINISHED

    try:
        report = run_with_progress(
            lambda meter: _collect(settings, options, meter),
            quiet=quiet,
            interrupted=_CONTINUE,
            stopped=_CONTINUE,
        )
    except CollectionRefused as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    for problem in report.problems:
        typer.echo(f"warning: {problem.key}: {problem.reason}; kept", err=True)
    if report.problem_count > len(report.problems):
        more = format_count(report.problem_count - len(report.problems), "further problem")
        typer.echo(f"warning: {more}", err=True)
    if as_json:
        typer.echo(json.dumps(report.as_json()))
    elif not quiet:
        _show(report)
    if report.outcome != FINISHED:
        typer.echo(f"{report.outcome}: {report.reason}", err=True)
        raise typer.Exit(1)


async def _collect(settings: Settings, options: CollectionOptions, meter: Meter) -> Report:
    from moorage.wiring.garbage_collection import process_name, run_collection
    from moorage.wiring.storage import opened_driver

    async with opened_driver(settings) as driver:
        return await run_collection(
            settings, driver, options, owner=process_name(), progress=_Progress(meter).report
        )


class _Progress:
    """Shows the phases of a run, each with what is done of a total; 0 is an unknown total."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._phase = ""
        self._done = 0
        self._total = 0

    def report(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase or done < self._done:
            self._meter.begin(phase, total or None)
            self._phase = phase
            self._done = 0
            self._total = total
        if total > self._total:
            self._meter.grow(total - self._total)
            self._total = total
        self._meter.advance(done - self._done)
        self._done = done


def _show(report: Report) -> None:
    """Print a table of repositories, largest first, and totals.

    Those of what is eligible are in the words of CNCF Distribution, which scripts search, also its `1 blobs`.
    """
    from moorage.cli.progress import format_bytes, format_count
    from moorage.gc.report import RepositoryReport

    rows = sorted(report.repositories.items(), key=lambda row: (-row[1].bytes, row[0]))
    shown = [(str(name), found) for name, found in rows]
    if report.unlinked.objects:
        shown.append((_UNLINKED, RepositoryReport(bytes=report.unlinked.bytes)))
    if shown:
        width = max(len("REPOSITORY"), *(len(name) for name, _ in shown))
        typer.echo(f"{'REPOSITORY':<{width}}  {'MANIFESTS':>9}  {'LAYERS':>9}  {'BYTES':>10}")
        for label, found in shown:
            size = format_bytes(found.bytes)
            typer.echo(f"{label:<{width}}  {found.manifests:>9}  {found.layers:>9}  {size:>10}")
        typer.echo("")
    manifests = sum(found.manifests for _, found in rows)
    freeable = f"{report.freeable.objects} blobs and {manifests} manifests eligible for deletion"
    typer.echo(f"{freeable} ({format_bytes(report.freeable.bytes)})")
    if report.waiting is not None and report.waiting.objects:
        size = format_bytes(report.waiting.bytes)
        waiting = format_count(report.waiting.objects, "blob")
        typer.echo(f"at most {waiting} ({size}) more when {_TIMES} have passed")
    if report.dry_run:
        typer.echo("dry run: nothing was removed")
        return
    removed = (
        (report.manifests, "manifest", "manifests"),
        (report.layers, "layer link", "layer links"),
        (report.history, "entry of tag histories", "entries of tag histories"),
        (report.trash, "expired record of deletions", "expired records of deletions"),
        (report.uploads, "upload", "uploads"),
        (report.removed_repositories, "repository", "repositories"),
    )
    parts = [f"{format_count(report.freed.objects, 'blob')} ({format_bytes(report.freed.bytes)})"]
    parts += [format_count(*counted) for counted in removed if counted[0]]
    typer.echo(f"removed {', '.join(parts)} in {report.seconds:.1f} s")
    if report.kept:
        typer.echo(f"kept {format_count(report.kept, 'blob')} that became needed during the run")
    if report.quarantined:
        left = format_count(report.quarantined, "object")
        typer.echo(f"kept {left} of a run that died, until its removals cannot arrive")
    if report.waits:
        typer.echo(f"content may wait until {_TIMES} have passed; --dry-run reports how much")
