"""Tags whose push died before their link was written, and how they are removed beside a serving registry.

A push writes the entry in a tag's history, then the tag's link (`manifests.py`).  What a crash leaves between the
two is a name with a history and no link; on a filesystem also empty directories.  Lists leave it out (`tags.py`),
CNCF Distribution shows it for ever (issue 936).

Only entries of the history are removed, and only if all of them are older than any running push; never a link.
So a push that sets the tag meanwhile loses nothing: if the link is there afterwards, its entry is written again.
(Only a process that failed between the two writes long ago, and repeats the push in that very moment, leaves a tag
without an entry, which no client notices and `moorage storage check --repair` writes.)

Above: `purge.py`, `checking/`.  Below: `storage/driver.py`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.errors import TagInvalid
from moorage.registry import layout
from moorage.registry.links import read_link, write_link
from moorage.storage.driver import RequestCost
from moorage.types import Tag, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime

    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName

__all__ = ["remove_unfinished", "unfinished_tags"]

_AT_ONCE: Final = 64


async def unfinished_tags(driver: Driver, name: RepoName, before: datetime) -> AsyncIterator[Tag]:
    """Tags of `name` without a link, whose history was last written before `before`.

    Costs a `stat` for each tag; in a bucket, a listing of all keys below the tags instead.
    Raises StorageUnavailable.
    """
    if driver.request_cost is RequestCost.NETWORK:
        for tag in await _without_link_by_keys(driver, name):
            if await _entries(driver, name, tag, before) is not None:
                yield tag
        return

    async def without_link(tag: Tag) -> bool:
        return not await _exists(driver, layout.tag_link(name, tag))

    async for page in driver.children(layout.tags(name)):
        tags = list(filter(None, map(_tag, page)))
        looked = await map_bounded(tags, without_link, at_once=_AT_ONCE)
        for tag, dead in zip(tags, looked, strict=True):
            if dead and await _entries(driver, name, tag, before) is not None:
                yield tag


async def remove_unfinished(driver: Driver, name: RepoName, tag: Tag, before: datetime) -> bool:
    """Remove the history of a tag that has no link, and its empty directories; false if it has one, or a push has
    written to it since `before`.  Raises StorageUnavailable.
    """
    link = layout.tag_link(name, tag)
    if await _exists(driver, link):
        return False
    entries = await _entries(driver, name, tag, before)
    if entries is None:
        return False
    await driver.delete(entries)
    await driver.prune(layout.tag(name, tag), before)
    digest = await read_link(driver, link)
    if digest is not None:  # a push that found its entry before it was removed
        await write_link(driver, layout.tag_history_link(name, tag, digest), digest)
    return digest is None


async def _entries(driver: Driver, name: RepoName, tag: Tag, before: datetime) -> Sequence[Key] | None:
    """The tag's history; None if an entry was written at or after `before`, or something else lies there."""
    if await _exists(driver, layout.tag(name, tag)):  # an operator's file
        return None
    found: list[Key] = []
    async for page in driver.scan(layout.tag(name, tag)):
        for stat in page:
            place = layout.parse_key(stat.key)
            if place is None or place.kind != "history" or stat.modified >= before:
                return None
            found.append(stat.key)
    return found


async def _without_link_by_keys(driver: Driver, name: RepoName) -> Sequence[Tag]:
    """Memory: the names of the repository's tags."""
    linked: dict[Tag, bool] = {}
    async for page in driver.scan(layout.tags(name)):
        for stat in page:
            place = layout.parse_key(stat.key)
            if place is not None and place.tag is not None:
                linked[place.tag] = linked.get(place.tag, False) or place.kind == "tag"
    return sorted(tag for tag, alive in linked.items() if not alive)


def _tag(text: str) -> Tag | None:
    with suppress(TagInvalid):
        return parse_tag(text)
    return None


async def _exists(driver: Driver, key: Key) -> bool:
    return await driver.find(key) is not None
