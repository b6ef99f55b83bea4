"""`moorage usage`: the bytes and tags of each repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.quota.report import RepositoryUsage, UsageReport

__all__ = ["usage"]


def usage(
    config: Config = None,
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only this repository and those below it.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Show the bytes and tags of each repository.

    A blob counts once in each repository that links it. Shared are the bytes that other repositories link too;
    unique those that would be freed with the repository. Quotas count the total. The registry may be serving
    meanwhile.

    Example: moorage usage /etc/docker/registry/config.yml team-a
    """
    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.cli.progress import run_with_progress

    settings = load_or_exit(config).settings
    if settings.storage.driver == "inmemory":
        typer.echo("storage.inmemory is the memory of one process; there is nothing to read", err=True)
        raise typer.Exit(1)
    require_data_directory(settings)
    prefix = prefix.strip("/")
    report = run_with_progress(
        lambda meter: _read(settings, meter), quiet=quiet, interrupted="nothing was changed"
    )
    rows = list(report.repositories(prefix))
    if prefix and not rows:
        typer.echo(f"there is no repository {prefix}, and none below it", err=True)
        raise typer.Exit(1)
    _show(report, rows, prefix, as_json=as_json)


async def _read(settings: Settings, meter: Meter) -> UsageReport:
    from moorage.quota.report import make_report
    from moorage.wiring.storage import opened_driver

    class Reporter:
        def phase(self, name: str) -> None:
            meter.begin(name, None)

        def advanced(self, count: int) -> None:
            meter.advance(count)

    async with opened_driver(settings) as driver:
        return await make_report(driver, Reporter())


def _show(report: UsageReport, rows: list[RepositoryUsage], prefix: str, *, as_json: bool) -> None:
    import json

    from moorage.cli.progress import format_bytes, format_count

    total, tags = sum(row.total for row in rows), sum(row.tags for row in rows)
    distinct, missing = report.distinct(prefix), sum(row.missing for row in rows)
    if as_json:
        for row in rows:
            facts = {"total": row.total, "shared": row.shared, "unique": row.unique}
            typer.echo(json.dumps({"repository": row.name, **facts, "tags": row.tags, "missing": row.missing}))
        summary = {"repositories": len(rows), "total": total, "stored": distinct, "tags": tags, "missing": missing}
        typer.echo(json.dumps({"summary": summary}))
        return
    width = max(map(len, ("REPOSITORY", *(row.name for row in rows))))
    typer.echo(f"{'REPOSITORY':{width}}  {'TOTAL':>10}  {'SHARED':>10}  {'UNIQUE':>10}  {'TAGS':>6}")
    for row in rows:
        sizes = "  ".join(f"{format_bytes(size):>10}" for size in (row.total, row.shared, row.unique))
        lost = f"  {format_count(row.missing, 'blob')} missing" if row.missing else ""
        typer.echo(f"{row.name:{width}}  {sizes}  {row.tags:>6}{lost}")
    typer.echo(
        f"{format_count(len(rows), 'repository', 'repositories')}, {format_count(tags, 'tag')}: "
        f"{format_bytes(total)}, and {format_bytes(distinct)} stored"
        + (f"; {format_count(missing, 'blob')} missing, see moorage storage check" if missing else "")
    )
