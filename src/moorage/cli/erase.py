"""`moorage erase`: removes leaked content at once, also from undo and history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation
from moorage.cli.undo import Target, parse_target

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.registry.erase import Erased

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
    of the repository names. A digest: that manifest in the same way, or that blob in any case. The bytes cannot be
    reached by clients from then on, and are removed by the next garbage collection that finds them old enough. A
    record of the erasure stays. Not reached: what clients have pulled, backups, caches before the registry.

    Example: moorage erase --everywhere /etc/docker/registry/config.yml library/app:leaked
    """
    from moorage.cli.progress import run_with_progress
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
        where = f"{len(plan.repositories)} repositories" if everywhere else target.name
        for digest in plan.digests:
            typer.echo(str(digest))
        if dry_run:
            typer.echo(
                f"would erase these {len(plan.digests)} digests from {where}, as far as nothing else needs them"
            )
            return
        confirm_or_exit(f"Erase {target} ({len(plan.digests)} digests) from {where}, for ever?", yes=yes)
        done = run_with_progress(
            lambda _: _erase(settings, target, everywhere=everywhere, plan=plan),
            quiet=True,
            interrupted="the erasure is incomplete; run it again",
        )
    except (EraseRefused, Protected) as error:
        typer.echo(f"nothing was erased: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"erased {target} from {where}; record {done.audit}; its bytes go with the next garbage collection")


async def _erase(settings: Settings, target: Target, *, everywhere: bool, plan: Erased | None) -> Erased:
    from moorage.cli.undo import operator
    from moorage.registry.erase import Eraser
    from moorage.wiring.repositories import hold_check, opened_links

    async with opened_links(settings) as (driver, links):
        eraser = Eraser(driver, links=links, by=operator(), holds=hold_check(settings, driver, links))
        if plan is None:
            return await eraser.plan(target.name, target.reference, everywhere=everywhere)
        return await eraser.run(target.name, target.reference, plan)
