"""`moorage storage rebuild-referrers`: writes the referrer links that another registry did not write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from moorage.cli.serve import Config  # noqa: TC001  Typer reads the annotation

if TYPE_CHECKING:
    from moorage.cli.progress import Meter
    from moorage.config.model import Settings
    from moorage.types import RepoName

__all__ = ["rebuild_referrers"]


def rebuild_referrers(config: Config = None) -> None:
    """Find the signatures, SBOMs and other referrers that another registry stored, so that clients can list them.

    Reads every manifest of every repository and writes what is missing; safe to run while the registry serves,
    and as often as you like.

    Example: moorage storage rebuild-referrers /etc/docker/registry/config.yml
    """
    from moorage.cli.problems import load_or_exit, require_data_directory
    from moorage.cli.progress import format_count, run_with_progress

    settings = load_or_exit(config).settings
    require_data_directory(settings)
    repositories, links = run_with_progress(
        lambda meter: _rebuild(settings, meter), quiet=False, interrupted="what was written holds; run it again"
    )
    read = format_count(repositories, "repository", "repositories")
    typer.echo(f"{read} read, {format_count(links, 'link')} written")


async def _rebuild(settings: Settings, meter: Meter) -> tuple[int, int]:
    """Return the number of repositories read and of links written."""
    from moorage.registry.manifests import StoredManifests
    from moorage.registry.referrers import rebuild
    from moorage.wiring.storage import make_driver

    driver = make_driver(settings)
    repositories = 0
    links = 0

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
