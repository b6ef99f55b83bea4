"""`moorage storage`: work on what is stored, beside a serving registry or without one."""

from __future__ import annotations

import typer

from moorage.cli import check, copy
from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

__all__ = ["app"]

app = typer.Typer(help="Work on what is stored.", no_args_is_help=True, rich_markup_mode=None)

app.command("copy")(copy.copy)
app.command("check")(check.check)


@app.command("rebuild-referrers")
def rebuild_referrers(config: Config = None) -> None:
    """Find the signatures, SBOMs and other referrers that another registry stored, so that clients can list them.

    Reads every manifest of every repository and writes what is missing; safe to run while the registry serves,
    and as often as you like.

    Example: moorage storage rebuild-referrers /etc/docker/registry/config.yml
    """
    import asyncio

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from moorage.cli.loading import load_or_exit
    from moorage.registry.manifests import StoredManifests
    from moorage.registry.referrers import rebuild
    from moorage.storage.driver import StorageError
    from moorage.stores import CannotStore, make_driver, prepare

    settings = load_or_exit(config).settings
    try:
        prepare(settings)
    except CannotStore as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None

    async def work(progress: Progress) -> tuple[int, int]:
        driver = make_driver(settings)
        task = progress.add_task("reading manifests", total=None)
        repositories = links = 0
        try:
            async for name, written in rebuild(driver, StoredManifests(driver)):
                repositories, links = repositories + 1, links + written
                progress.update(task, description=f"{repositories} repositories, {links} links written: {name}")
        finally:
            await driver.close()
        return repositories, links

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            repositories, links = asyncio.run(work(progress))
    except StorageError as error:
        typer.echo(f"the storage failed: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{repositories} repositories read, {links} links written")
