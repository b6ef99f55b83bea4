"""Every change that a repair makes, each safe beside a serving registry.

Three rules:

* What can be written is written on condition that it is still as it was seen.  A push that was faster wins.
* The link of a tag is never removed.  One that leads nowhere is pointed at nothing (`tags.NOWHERE`), on the
  same condition, as the registry itself does with tags of deleted manifests.  What a push left of a tag that has
  no link is removed (`registry/tags.py`).
* A link that has to be removed is removed without a condition, because no store has one.  So afterwards the bytes
  are looked for: a push writes them before the link, and if they are there by now, the link is written again.

Each returns whether what was wrong is right when it returns, whoever did it.
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
    "mend",
    "overwrite",
    "point_at_nothing",
    "referrer_content",
    "write_absent",
    "write_referrer",
]


async def exists(driver: Driver, key: Key) -> bool:
    return await driver.find(key) is not None


async def overwrite(driver: Driver, key: Key, digest: Digest, when: When) -> bool:
    """The link names `digest`, unless somebody else wrote it since `when` was seen; False if nobody did and the
    store refused all the same.
    """
    try:
        await driver.write(key, str(digest).encode(), when)
    except Conflict:
        return (await resolve(driver, key))[1] != when
    return True


async def referrer_content(driver: Driver, key: Key) -> tuple[bytes | None, When]:
    """The bytes of a referrer link, None if there is none or it is too large; and the condition that they are."""
    try:
        content = await driver.read(key)
    except KeyMissing:
        return None, ABSENT
    except ObjectTooLarge:
        return None, ALWAYS
    return content.data, Unchanged(content.version)


async def write_referrer(driver: Driver, key: Key, link: ReferrerLink, when: When) -> bool:
    """As `overwrite`, for a referrer link with its descriptor."""
    try:
        await driver.write(key, link.content, when)
    except Conflict:
        return (await referrer_content(driver, key))[1] != when
    return True


async def write_absent(driver: Driver, key: Key, digest: Digest) -> bool:
    """A link that is missing."""
    return await overwrite(driver, key, digest, ABSENT)


async def mend(driver: Driver, key: Key, digest: Digest, *, blob_there: Callable[[], Awaitable[bool]]) -> bool:
    """A torn link whose path says that it named `digest`: written if the bytes are there, else removed."""
    found, when = await resolve(driver, key)
    if found is not None or when is ABSENT:
        return True
    if await blob_there():
        return await overwrite(driver, key, digest, when)
    await driver.delete([key])
    if await blob_there() and not await has_link(driver, key):
        await write_link(driver, key, digest)
    return True


async def point_at_nothing(driver: Driver, name: RepoName, tag: Tag, when: When) -> bool:
    """Make the tag a dead one, unless another process moved it since `when` was seen."""
    return await overwrite(driver, layout.tag_link(name, tag), NOWHERE, when)


async def drop_referrer(driver: Driver, name: RepoName, key: Key, referrer: Digest, *, valid: bool) -> bool:
    """A referrer link of a manifest that is not there, or (`valid` False) that names another subject."""
    await driver.delete([key])
    if valid and await has_link(driver, layout.revision_link(name, referrer)):
        # Pushed again meanwhile.  Without the descriptor, which listings then take from the manifest.
        await write_link(driver, key, referrer)
    return True
