"""Tags: a list holds exactly the tags whose manifest a request for it would answer with 200.

The names below `_manifests/tags` are not that list.  A push that died leaves a name without a link (CNCF
Distribution lists such a tag for ever, issue 936), a crash of version 2.8 a torn link, a deletion by digest tags
whose manifest is gone (`manifests.py` has the reason), an operator anything at all.  So each name is checked as a
request for it is answered: its link is read, the revision link is looked for, and the manifest's bytes are proven,
which is remembered (`StoredManifests.served`).  A page of at most `limit` tags checks only its own names, and is
filled up again.

A list is not a snapshot: each tag is shown or left out as it was at some moment of the request.  A tag that is
alive throughout is never left out, also while pushes move it and the manifest that it named before is deleted.

Cost of a tag: one read; of each manifest: one `stat`, and once in a process one read of its bytes (once a minute
for one that is not served).
Why: docs/decisions/0009-tag-lists.md.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.errors import NameUnknown, TagInvalid
from moorage.registry import layout
from moorage.registry.interface import Page
from moorage.registry.links import REVISION, Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.storage_errors import refusing
from moorage.types import Tag, parse_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key
    from moorage.types import Digest, RepoName

__all__ = ["StoredTags", "any_child"]

_AT_ONCE: Final = 64
"""Tags checked before other requests get a turn: about 2 ms on a local disk."""

_PROVEN_AT_ONCE: Final = 8
"""Manifests whose bytes are read at the same time, by all lists of the process: each may have 4 MiB."""

_LARGEST: Final = 1 << 16


async def any_child(driver: Driver, prefix: Key) -> bool:
    """Return whether anything lies below `prefix`."""
    async for names in driver.children(prefix, limit=1):
        return bool(names)
    return False


class StoredTags:
    """See `interface.Tags`.  `manifests` and `links` are those that requests for manifests are answered from."""

    def __init__(
        self, driver: Driver, *, manifests: StoredManifests | None = None, links: Links | None = None
    ) -> None:
        self._driver = driver
        self._links = Links(driver) if links is None else links
        self._manifests = StoredManifests(driver, links=self._links) if manifests is None else manifests
        self._proving = asyncio.Semaphore(_PROVEN_AT_ONCE)

    async def list(self, name: RepoName, *, last: str = "", limit: int | None = None) -> Page:
        with refusing():
            found = await self._all(name, last) if limit is None else await self._first(name, last, limit + 1)
            if not found and not await any_child(self._driver, layout.manifests(name)):
                raise NameUnknown(name, detail={"name": name})
        return Page(tuple(found[:limit]), more=limit is not None and len(found) > limit)

    async def _all(self, name: RepoName, last: str) -> Sequence[str]:
        found: list[str] = []
        alive: set[Digest] = set()
        async for names in self._driver.children(layout.tags(name), after=last):
            found += await self._shown(name, names, alive)
        return found

    async def _first(self, name: RepoName, last: str, wanted: int) -> Sequence[str]:
        found: list[str] = []
        alive: set[Digest] = set()
        size = wanted
        while True:
            names: list[str] = []
            async for page in self._driver.children(layout.tags(name), after=last, limit=size):
                names += page
            found += await self._shown(name, names, alive)
            if len(names) < size or len(found) >= wanted:
                return found
            # Where most tags are dead, pages of the asked size would list the directory again and again.
            last, size = names[-1], min(size * 4, _LARGEST)

    async def _shown(self, name: RepoName, names: Sequence[str], alive: set[Digest]) -> Sequence[str]:
        tags = [tag for tag in names if _is_tag(tag)]
        shown = await map_bounded(tags, lambda tag: self._is_alive(name, Tag(tag), alive), at_once=_AT_ONCE)
        return [tag for tag, shows in zip(tags, shown, strict=True) if shows]

    async def _is_alive(self, name: RepoName, tag: Tag, alive: set[Digest]) -> bool:
        """Return whether the tag leads to a manifest; `alive` collects those found to be served in this request.

        One that is not served counts only while the tag still names it: a push may have moved the tag meanwhile,
        and a deletion removed what it named before.  For the same reason absence is never remembered in `alive`.
        """
        seen: Digest | None = None
        while True:
            digest = await self._links.read(layout.tag_link(name, tag))
            if digest is None or digest == seen:
                return False
            if digest in alive or await self._is_served(name, digest):
                alive.add(digest)
                return True
            seen = digest

    async def _is_served(self, name: RepoName, digest: Digest) -> bool:
        if not await self._links.exists_recent(REVISION, name, digest):
            return False
        if (served := await self._manifests.served(digest)) is None:
            async with self._proving:
                if (served := await self._manifests.served(digest)) is None:  # another tag may have led to it
                    served = await self._manifests.prove(digest)
                await asyncio.sleep(0)  # a local disk answers at once, and other requests need their turn
        return served


def _is_tag(name: str) -> bool:
    """False for what an operator left there under another name."""
    try:
        parse_tag(name)
    except TagInvalid:
        return False
    return True
