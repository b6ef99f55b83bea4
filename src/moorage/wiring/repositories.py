"""Parts of the registry for commands that remove links: with the leases and the shared cache of the settings."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from moorage.registry.blob_store import BlobStore
from moorage.registry.links import Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.protection import ProtectionCheck
from moorage.registry.repository_removal import RepositoryRemoval
from moorage.registry.tags import TagStore
from moorage.registry.trash import Trash
from moorage.wiring.cache import make_sizes
from moorage.wiring.protection import make_protection
from moorage.wiring.storage import opened_driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from moorage.config.model import Settings
    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = ["opened_links", "opened_removal"]


@asynccontextmanager
async def opened_links(settings: Settings) -> AsyncIterator[tuple[Driver, Links]]:
    """Yield the driver and its links.  Raises StartupError."""
    sizes = make_sizes(settings)
    try:
        async with opened_driver(settings) as driver:
            yield driver, Links(driver, lasts_s=settings.storage.cache.links, sizes=sizes)
    finally:
        if sizes is not None:
            await sizes.close()


@asynccontextmanager
async def opened_removal(
    settings: Settings, name: RepoName, progress: Callable[[int], None] | None = None
) -> AsyncIterator[RepositoryRemoval]:
    """Yield the removal of a repository.  Raises StartupError; Protected if a hold or a rule forbids it."""
    async with opened_links(settings) as (driver, links):
        store = BlobStore(driver)
        tags = TagStore(driver, links=links)
        check = ProtectionCheck(make_protection(settings), tags, links, ManifestContents(store))
        await check.check_repository_deletion(name)
        yield RepositoryRemoval(
            driver,
            name,
            store=store,
            links=links,
            trash=Trash(driver, keep_s=settings.storage.delete.undo),
            progress=progress,
        )
