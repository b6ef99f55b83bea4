"""`moorage sync`: runs the jobs of the section `sync` once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.replication.report import SyncReport, SyncRow

__all__ = ["sync"]

_RESUME = "what was copied stays; run it again for the rest"


def sync(
    config: Config = None,
    job: Annotated[
        list[str] | None, typer.Option("--job", metavar="NAME", help="Only this job; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-d", help="Only list what would be copied.")] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Look up the blobs of images that the target has, too.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", "-a", help="List also the images that are up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Copy the repositories of the section sync from other registries, only what is missing.

    The registry may be serving meanwhile. Digests never change, and a tag is set when all of its image is there.
    Exit status 1 if anything is missing in a source or was not copied.

    Example: moorage sync --dry-run /etc/docker/registry/config.yml
    """
    from moorage.cli.copied import report_row, report_summary, run_until_sigterm
    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.wiring.sync import writes_here

    settings = load_or_exit(config).settings
    names = tuple(job or ())
    here = writes_here(settings, names)
    if problem := _refusal(settings, names, writes=here and not dry_run, here=here):
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(1)
    if here:
        require_data_directory(settings, may_be_missing=True)

    def done(row: SyncRow) -> None:
        report_row(row, every=every, as_json=as_json, dry_run=dry_run)

    async def work(meter: Meter) -> SyncReport:
        from contextlib import AsyncExitStack

        from moorage.cli.copied import MeterProgress
        from moorage.wiring.storage import opened_driver
        from moorage.wiring.sync import run_sync

        async with AsyncExitStack() as stack:
            driver = await stack.enter_async_context(opened_driver(settings)) if here else None
            return await run_sync(
                settings,
                driver,
                names=names,
                dry_run=dry_run,
                recheck=recheck,
                done=done,
                progress=MeterProgress(meter),
            )

    report = run_until_sigterm(work, quiet=quiet, resume=_RESUME)
    report_summary(report, as_json=as_json, dry_run=dry_run)
    raise typer.Exit(0 if report.is_complete else 1)


def _refusal(settings: Settings, names: tuple[str, ...], *, writes: bool, here: bool) -> str:
    """Return the reason why nothing can be copied; "" if there is none."""
    known = [job.name for job in settings.sync.jobs]
    if not known:
        return "there are no jobs; set sync.jobs in the configuration"
    unknown = [name for name in names if name not in known]
    if unknown:
        return f"there is no job {unknown[0]}; sync.jobs has {', '.join(known)}"
    if here and settings.storage.driver == "inmemory":
        return "storage.inmemory is the memory of one process; nothing can be copied to it"
    if writes and settings.storage.maintenance.readonly.enabled:
        return "storage.maintenance.readonly is enabled, so nothing is stored; use --dry-run, or disable it"
    return ""
