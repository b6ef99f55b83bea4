"""Images put into a store without the upload engine: data and links, as a finished upload leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.registry import layout
from moorage.types import RepoName, Tag

if TYPE_CHECKING:
    from moorage.registry.interface import IfMatch, Pushed
    from moorage.registry.manifests import StoredManifests
    from moorage.storage.driver import Driver
    from moorage.testing.builders import Built
    from moorage.types import Reference

__all__ = ["NAME", "T1", "T2", "T3", "add_blobs", "everything", "push"]

NAME = RepoName("library/alpine")
T1, T2, T3 = Tag("v1"), Tag("v2"), Tag("v3")


async def add_blobs(driver: Driver, *built: Built, name: RepoName = NAME) -> None:
    """The blobs of `built`, or `built` themselves if they are blobs, readable in `name`."""
    for part in built:
        for found in part.closure:
            if not found.is_manifest:
                await driver.write(layout.blob_data(found.digest), found.data)
                await driver.write(layout.layer_link(name, found.digest), str(found.digest).encode())


async def push(
    driver: Driver,
    manifests: StoredManifests,
    built: Built,
    reference: Reference | None = None,
    *,
    name: RepoName = NAME,
    tags: tuple[Tag, ...] = (),
    condition: IfMatch | None = None,
) -> Pushed:
    """Everything below `built`, then `built` itself, by digest by default."""
    await add_blobs(driver, built, name=name)
    for part in built.closure[:-1]:
        if part.is_manifest:
            await manifests.put(name, part.digest, part.media_type, part.data)
    return await manifests.put(
        name, reference or built.digest, built.media_type, built.data, tags=tags, condition=condition
    )


async def everything(driver: Driver) -> dict[str, bytes]:
    """Every object of the store."""
    found = {}
    async for page in driver.scan(layout.ROOT):
        for stat in page:
            found[str(stat.key)] = (await driver.read(stat.key)).data
    return found
