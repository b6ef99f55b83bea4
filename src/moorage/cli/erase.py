"""`moorage erase`: removes leaked content at once, also from undo and history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation
from moorage.cli.undo import Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.gc.report import Report
    from moorage.registry.erase import Erased
    from moorage.types import Digest

__all__ = ["erase"]


def erase(
    config: Config = None,
    target: Annotated[
        Target | None,
        typer.Argument(parser=parse_target, metavar="REPOSITORY[:TAG|@DIGEST]", help="Content to erase."),
    ] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="In all repositories.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-d", help="Only print what would be erased.")] = False,
) -> None:
    """Remove leaked content, also from undo and history.

    No restore brings it back. A tag: every manifest that it has pointed to, with the blobs that no other manifest
    of the repository names. A digest: that manifest in the same way, or that blob in any case. Then the bytes that
    no repository links any more are removed from the store, by a garbage collection of these digests alone, which
    takes some ten seconds longer. A record of the erasure stays. Not reached: what clients have pulled, backups,
    caches before the registry.

    Example: moorage erase --everywhere /etc/docker/registry/config.yml library/app:leaked
    """
    from moorage.cli.progress import format_count, run_with_progress
    from moorage.cli.undo import confirm_or_exit, stored_settings
    from moorage.errors import Protected
    from moorage.registry.erase import EraseRefused

    if target is None:
        raise typer.BadParameter("expected CONFIG and REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST")
    settings = stored_settings(config, writes=not dry_run)
    try:
        plan = run_with_progress(
            lambda _: _erase(settings, target, everywhere=everywhere, plan=None),
            quiet=True,
            interrupted="nothing was changed",
        )
        where = str(target.name)
        if everywhere:
            where = f"the whole registry ({format_count(len(plan.repositories), 'repository', 'repositories')})"
        digests = format_count(len(plan.digests), "digest")
        for digest in plan.digests:
            typer.echo(str(digest))
        if dry_run:
            typer.echo(f"would erase {digests} from {where}, as far as nothing else needs them")
            return
        confirm_or_exit(f"Erase {target} ({digests}) from {where}, for ever?", yes=yes)
        done = run_with_progress(
            lambda _: _erase(settings, target, everywhere=everywhere, plan=plan),
            quiet=True,
            interrupted="the erasure is incomplete; run it again",
        )
    except (EraseRefused, Protected) as error:
        typer.echo(f"nothing was erased: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"erased {target} from {where}; record {done.audit}")
    _remove_bytes(settings, done)


def _remove_bytes(settings: Settings, done: Erased) -> None:
    """Remove the bytes that nothing links, and print what is left; exit with status 1 if they could not be."""
    from moorage.cli.progress import format_bytes, format_count, run_with_progress
    from moorage.gc.errors import CollectionRefused
    from moorage.gc.report import FINISHED

    left = "the bytes are left to the next garbage collection"
    try:
        report, linked = run_with_progress(
            lambda meter: _collect(settings, done, meter), quiet=True, interrupted=left, stopped=left
        )
    except CollectionRefused as error:
        typer.echo(f"{left}: {error}", err=True)
        raise typer.Exit(1) from None
    for digest, name in sorted(linked.items()):
        typer.echo(f"kept {digest}, which {name} links or can restore")
    for problem in report.problems:
        typer.echo(f"{problem.key}: {problem.reason}", err=True)
    removed = format_count(report.freed.objects, "blob")
    typer.echo(f"removed {removed}, {format_bytes(report.freed.bytes)}, from the store")
    if report.outcome != FINISHED or report.reason or report.problem_count or report.kept:
        typer.echo(f"{left}: {report.reason or 'requests rely on them, or see above'}", err=True)
        raise typer.Exit(1)


async def _collect(settings: Settings, done: Erased, meter: Meter) -> tuple[Report, Mapping[Digest, str]]:
    from moorage.wiring.garbage_collection import process_name, remove_unlinked
    from moorage.wiring.storage import opened_driver

    meter.begin("removing bytes", None)
    async with opened_driver(settings) as driver:
        return await remove_unlinked(settings, driver, done.digests, owner=process_name())


async def _erase(settings: Settings, target: Target, *, everywhere: bool, plan: Erased | None) -> Erased:
    from moorage.cli.undo import operator
    from moorage.registry.erase import Eraser
    from moorage.wiring.protection import make_protection
    from moorage.wiring.quota import want_count
    from moorage.wiring.repositories import opened_links

    async with opened_links(settings) as (driver, links):
        eraser = Eraser(driver, links=links, by=operator(), protection=make_protection(settings))
        if plan is None:
            return await eraser.plan(target.name, target.reference, everywhere=everywhere)
        try:
            return await eraser.run(target.name, target.reference, plan)
        finally:
            await want_count(driver, settings)
