"""The changes that a repair makes, each safe beside a serving registry.

Three rules:

* A write is conditional on the state that was read before.  A concurrent push wins.
* The link of a tag is never removed.  One whose manifest does not exist is pointed at nothing
  (`tags.NOWHERE`), on the same condition, as the registry itself does with tags of deleted manifests.  The
  history of a tag that has no link is removed (`registry/tags.py`).
* The removal of a link cannot be conditional, because no store offers that.  So the bytes are looked up
  afterwards: a push writes them before the link, and if they exist by then, the link is written again.

Each function returns whether the damage is gone when it returns, also if a concurrent push has repaired it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.registry import layout
from moorage.registry.links import has_link, resolve, write_link
from moorage.registry.tags import NOWHERE
from moorage.storage.driver import ABSENT, ALWAYS, Conflict, KeyMissing, ObjectTooLarge, Unchanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.registry.referrer_links import ReferrerLink
    from moorage.storage.driver import Driver, Key, When
    from moorage.types import Digest, RepoName, Tag

__all__ = [
    "drop_referrer",
    "exists",
    "overwrite",
    "point_at_nothing",
    "referrer_content",
    "repair_torn",
    "write_absent",
    "write_referrer",
]


async def exists(driver: Driver, key: Key) -> bool:
    """Return whether there is an object under `key`."""
    return await driver.find(key) is not None


async def overwrite(driver: Driver, key: Key, digest: Digest, when: When) -> bool:
    """Write a link to `digest` unless another writer has changed it since `when`.

    False only if the store refused the condition although the link is unchanged.
    """
    try:
        await driver.write(key, str(digest).encode(), when)
    except Conflict:
        return (await resolve(driver, key))[1] != when
    return True


async def referrer_content(driver: Driver, key: Key) -> tuple[bytes | None, When]:
    """Return the bytes of a referrer link, None if missing or too large, and the condition for replacing it."""
    try:
        content = await driver.read(key)
    except KeyMissing:
        return None, ABSENT
    except ObjectTooLarge:
        return None, ALWAYS
    return content.data, Unchanged(content.version)


async def write_referrer(driver: Driver, key: Key, link: ReferrerLink, when: When) -> bool:
    """Write a referrer link with its descriptor, as `overwrite` does."""
    try:
        await driver.write(key, link.content, when)
    except Conflict:
        return (await referrer_content(driver, key))[1] != when
    return True


async def write_absent(driver: Driver, key: Key, digest: Digest) -> bool:
    """Write a missing link."""
    return await overwrite(driver, key, digest, ABSENT)


async def repair_torn(
    driver: Driver, key: Key, digest: Digest, *, blob_exists: Callable[[], Awaitable[bool]]
) -> bool:
    """Write a torn link again, with the digest of its path, if the bytes exist; else remove it."""
    found, when = await resolve(driver, key)
    if found is not None or when is ABSENT:
        return True
    if await blob_exists():
        return await overwrite(driver, key, digest, when)
    await driver.delete([key])
    if await blob_exists() and not await has_link(driver, key):
        await write_link(driver, key, digest)
    return True


async def point_at_nothing(driver: Driver, name: RepoName, tag: Tag, when: When) -> bool:
    """Point the tag at nothing, unless another process has moved it since `when`."""
    return await overwrite(driver, layout.tag_link(name, tag), NOWHERE, when)


async def drop_referrer(driver: Driver, name: RepoName, key: Key, referrer: Digest, *, valid: bool) -> bool:
    """Remove the referrer link of a manifest that is missing or, with `valid` False, has another subject."""
    await driver.delete([key])
    if valid and await has_link(driver, layout.revision_link(name, referrer)):
        # Pushed again meanwhile.  Listings take the descriptor from the manifest then.
        await write_link(driver, key, referrer)
    return True
