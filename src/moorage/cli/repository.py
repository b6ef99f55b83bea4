"""`moorage repository`: whole repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.registry.repository_removal import RemovedRepository
    from moorage.types import RepoName

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Delete whole repositories.")


@app.callback()
def root() -> None:
    # Makes `delete` a command of its own, not the whole of `moorage repository`.
    pass


@app.command("delete")
def delete(
    config: Config = None,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The repository.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-d", help="Only print what would be deleted.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Delete a repository with all its content.

    Its tags, manifests and links to blobs go; repositories below it stay. The registry may be serving. Until
    storage.delete.undo has passed, `moorage restore` brings it back. An interrupted deletion is continued by the
    same command.

    Example: moorage repository delete --dry-run /etc/docker/registry/config.yml library/app
    """
    from moorage.cli.progress import run_with_progress
    from moorage.cli.undo import confirm_or_exit, stored_settings
    from moorage.errors import RegistryError
    from moorage.types import parse_repo_name

    try:
        parsed = parse_repo_name(name)
    except RegistryError as error:
        raise typer.BadParameter(f"{error}; expected CONFIG and NAME") from None
    settings = stored_settings(config, writes=not dry_run)
    try:
        found = run_with_progress(
            lambda meter: _count(settings, parsed, meter), quiet=quiet, interrupted="nothing was changed"
        )
        subject = _describe(parsed, found)
        if dry_run:
            typer.echo(f"would delete {subject}")
            return
        undo = settings.storage.delete.undo
        lasting = "" if undo or found.is_empty else ", for ever: storage.delete.undo is 0"
        confirm_or_exit(f"Delete {subject}{lasting}?", yes=yes)
        removed = run_with_progress(
            lambda meter: _delete(settings, parsed, meter, found),
            quiet=quiet,
            interrupted="what was deleted is gone; run it again to continue",
        )
    except RegistryError as error:
        typer.echo(f"nothing was deleted: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"deleted {_describe(parsed, removed)}")


def _describe(name: RepoName, found: RemovedRepository) -> str:
    """Return what a deletion removes.  One that erasures have emptied is in the catalog until it is deleted."""
    from moorage.cli.progress import format_count

    if found.is_empty:
        return f"the empty repository {name}, which has no tags, manifests or blobs any more"
    return (
        f"{format_count(found.tags, 'tag')}, {format_count(found.manifests, 'manifest')} "
        f"and {format_count(found.blobs, 'blob')} of {name}"
    )


async def _count(settings: Settings, name: RepoName, meter: Meter) -> RemovedRepository:
    from moorage.wiring.repositories import opened_removal

    meter.begin("counted", None)
    async with opened_removal(settings, name) as removal:
        return await removal.count()


async def _delete(settings: Settings, name: RepoName, meter: Meter, found: RemovedRepository) -> RemovedRepository:
    from moorage.cli.undo import operator
    from moorage.wiring.quota import want_count
    from moorage.wiring.repositories import opened_removal
    from moorage.wiring.storage import opened_driver

    # A tag has a link and at least one entry in its history.
    meter.begin("links deleted", found.manifests + 2 * found.tags + found.blobs)
    async with opened_removal(settings, name, meter.advance) as removal:
        removed = await removal.run(by=operator(), reason="moorage repository delete")
    async with opened_driver(settings) as driver:
        await want_count(driver, settings)
    return removed
