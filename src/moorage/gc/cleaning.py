"""Removal of what needs no markers, since no push relies on it: old uploads, expired trash, history, directories.

Above: `run.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.gc.cache import MarkCache
from moorage.gc.repositories import list_repositories
from moorage.registry import layout
from moorage.registry.history import expired_events
from moorage.registry.links import read_link, write_link
from moorage.registry.purge import purge
from moorage.types import RepoName

if TYPE_CHECKING:
    from moorage.gc.mark import Marked, TagHistoryEntry
    from moorage.gc.options import Holds
    from moorage.storage.driver import Driver, Stat

__all__ = ["remove_empty", "remove_events", "remove_history", "remove_trash", "remove_uploads"]

_CHUNK: Final = 1000
_STALE: Final = timedelta(days=1)
"""Temporary files of writers that are as old were left by a crash."""


async def remove_uploads(driver: Driver, before: datetime) -> int:
    """Remove uploads that began before `before`, with their parts in buckets; return their number."""
    count = 0
    async for _ in purge(driver, before=before):
        count += 1
    return count


async def remove_trash(driver: Driver, marked: Marked) -> int:
    """Remove expired records of deleted content; return their number."""
    keys = sorted(marked.trash)
    for start in range(0, len(keys), _CHUNK):
        await driver.delete(keys[start : start + _CHUNK])
    return len(keys)


async def remove_history(driver: Driver, marked: Marked) -> int:
    """Remove entries of the history of tags; return their number.

    A push that points the tag to such a manifest again meanwhile has found its entry; it is written again.
    """

    async def one(entry: TagHistoryEntry) -> None:
        key = layout.tag_history_link(*entry)
        await driver.delete([key])
        if await read_link(driver, layout.tag_link(entry.name, entry.tag)) == entry.digest:
            await write_link(driver, key, entry.digest)

    entries = iter(marked.history)
    while part := list(islice(entries, _CHUNK)):
        await map_bounded(part, one)
    return len(marked.history)


async def remove_events(driver: Driver, before: datetime, held: Holds | None) -> int:
    """Remove the records of changes of tags from before `before` (`_history`), except in held repositories; return
    the number of objects.
    """
    count = 0

    async def one(name: RepoName) -> None:
        nonlocal count
        keys = sorted(await expired_events(driver, name, before))
        for start in range(0, len(keys), _CHUNK):
            await driver.delete(keys[start : start + _CHUNK])
        count += len(keys)

    found = [
        RepoName(names.name)
        for names in await list_repositories(driver, MarkCache())
        if names.valid and "_history" in names.reserved
    ]
    await map_bounded([name for name in found if held is None or not held(name)], one)
    return count


async def remove_empty(driver: Driver, marked: Marked, now: datetime) -> int:
    """Remove what is left of repositories without content: never an object that is written meanwhile."""

    async def one(name: RepoName) -> None:
        home = layout.repository(name)
        old: list[Stat] = []
        for part in ("_referrers", "_manifests/_deleted", "_history"):
            async for page in driver.scan(layout.below(home, part)):
                old += [stat for stat in page if stat.modified < now - _STALE]
        for start in range(0, len(old), _CHUNK):
            await driver.remove_unchanged(old[start : start + _CHUNK])
        nested = False
        async for names in driver.children(home):
            for child in names:
                if child.startswith("_"):
                    await driver.prune(layout.below(home, child), now - _STALE)
                nested = nested or not child.startswith("_")
        if not nested:
            await driver.prune(home, now - _STALE)

    await map_bounded(sorted(marked.repositories), one)
    return len(marked.repositories)
