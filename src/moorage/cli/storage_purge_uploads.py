"""`moorage storage purge-uploads`: removes uploads and half-written tags that no client finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from moorage.cli.durations import parse_seconds
from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.cli.progress import Meter
    from moorage.config.model import Settings

__all__ = ["purge_uploads"]

_SHORT_S: Final = 3600.0


def purge_uploads(
    config: Config = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            parser=parse_seconds,
            metavar="DURATION",
            help="Age from which an upload is abandoned; by default storage.maintenance.uploadpurging.age.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-d", help="Only print what would be removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the summary, and no progress.")] = False,
) -> None:
    """Remove uploads and half-written tags that no client finished, as the registry does in the background.

    Safe while the registry serves. One key is printed for each upload, then a summary. It runs even if
    storage.maintenance.uploadpurging.enabled is false; in read-only mode only with --dry-run.

    Example: moorage storage purge-uploads --older-than 48h --dry-run /etc/docker/registry/config.yml
    """
    from datetime import UTC, datetime, timedelta

    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.cli.progress import run_with_progress
    from moorage.config.scalars import format_duration

    settings = load_or_exit(config).settings
    if settings.storage.driver == "inmemory":
        typer.echo("storage.inmemory is the memory of one process; there is nothing to purge", err=True)
        raise typer.Exit(1)
    if settings.storage.maintenance.readonly.enabled and not dry_run:
        reason = "storage.maintenance.readonly is enabled, nothing was removed; use --dry-run, or disable it"
        typer.echo(reason, err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    age_s = settings.storage.maintenance.uploadpurging.age if older_than is None else older_than
    if age_s < _SHORT_S and not dry_run:
        age = format_duration(age_s)
        typer.echo(f"warning: pushes in progress that began more than {age} ago have to be repeated", err=True)
    before = datetime.now(UTC) - timedelta(seconds=age_s)
    report = _Report(dry_run=dry_run, as_json=as_json, quiet=quiet)
    run_with_progress(
        lambda meter: _purge(settings, before, report, meter),
        quiet=quiet,
        interrupted="what was removed is gone; run it again to continue",
    )
    report.summary()


class _Report:
    """Prints what is removed, and counts it."""

    def __init__(self, *, dry_run: bool, as_json: bool, quiet: bool) -> None:
        self.dry_run = dry_run
        self._json = as_json
        self._quiet = quiet
        self._counts = {"upload": 0, "tag": 0}

    def found(self, kind: str, key: str) -> None:
        import json

        self._counts[kind] += 1
        if self._json:
            typer.echo(json.dumps({"kind": kind, "key": key, "removed": not self.dry_run}))
        elif not self._quiet:
            typer.echo(f"{'would remove' if self.dry_run else 'removed'} {kind}: {key}")

    def summary(self) -> None:
        import json

        from moorage.cli.progress import format_count

        uploads, tags = self._counts["upload"], self._counts["tag"]
        if self._json:
            facts = {"uploads": uploads, "tags": tags, "removed": not self.dry_run}
            typer.echo(json.dumps({"summary": facts}))
            return
        done = "would be removed" if self.dry_run else "removed"
        typer.echo(f"{format_count(uploads, 'upload')} and {format_count(tags, 'half-written tag')} {done}")


async def _purge(settings: Settings, before: datetime, report: _Report, meter: Meter) -> None:
    from moorage.registry.purge import purge, purge_tags
    from moorage.wiring.storage import opened_driver

    dry_run = report.dry_run
    async with opened_driver(settings) as driver:
        meter.begin("abandoned uploads", None)
        async for home in purge(driver, before=before, dry_run=dry_run):
            report.found("upload", home)
            meter.advance(1)
        meter.begin("half-written tags", None)
        async for tag in purge_tags(driver, before=before, dry_run=dry_run):
            report.found("tag", tag)
            meter.advance(1)
