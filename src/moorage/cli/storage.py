"""`moorage storage`: work on what is stored, beside a serving registry or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from moorage.cli import check, copy
from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.types import RepoName

__all__ = ["app"]

app = typer.Typer(help="Work on what is stored.", no_args_is_help=True, rich_markup_mode=None)

app.command("copy", short_help="Copy a registry from one store to another.")(copy.copy)
app.command("check", short_help="Find what is damaged, and repair it on request.")(check.check)


@app.command("rebuild-referrers", short_help="List the signatures and SBOMs of another registry.")
def rebuild_referrers(config: Config = None) -> None:
    """Find the signatures, SBOMs and other referrers that another registry stored, so that clients can list them.

    Reads every manifest of every repository and writes what is missing; safe to run while the registry serves,
    and as often as you like.

    Example: moorage storage rebuild-referrers /etc/docker/registry/config.yml
    """
    from moorage.cli.jobs import carry_out
    from moorage.cli.loading import load_or_exit, require_directory

    settings = load_or_exit(config).settings
    require_directory(settings)
    repositories, links = carry_out(
        lambda meter: _rebuild(settings, meter), quiet=False, interrupted="what was written holds; run it again"
    )
    typer.echo(f"{repositories} repositories read, {links} links written")


async def _rebuild(settings: Settings, meter: Meter) -> tuple[int, int]:
    """How many repositories were read, and how many links were written."""
    from moorage.registry.manifests import StoredManifests
    from moorage.registry.referrers import rebuild
    from moorage.wiring.storage import make_driver

    driver = make_driver(settings)
    repositories = links = 0

    def rebuilt(name: RepoName, written: int) -> None:
        nonlocal repositories, links
        repositories += 1
        links += written
        meter.advance(1)
        meter.describe(f"{links} links written; last {name}")

    try:
        meter.begin("repositories", None)
        await rebuild(driver, StoredManifests(driver), rebuilt)
    finally:
        await driver.close()
    return repositories, links
