"""Lists of tags: exactly the tags whose manifest a request for it would answer with 200.

The names below `_manifests/tags` are not that list.  A push that died leaves a name without a link (CNCF
Distribution lists such a tag for ever, issue 936), a crash of version 2.8 a torn link, a deletion by digest tags
whose manifest is gone (`tags.py` has the reason), an operator other files.  So each name is checked as a
request for it is answered: its link and the revision link are read, and the manifest's bytes are proven,
which is remembered (`ManifestContents.is_served`).  A page of at most `limit` tags checks only its own names, and
is filled up again.

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
from moorage.errors import NameUnknown
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.interface import Page
from moorage.registry.links import REVISION, Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.storage_errors import refusing
from moorage.registry.tags import TagStore, as_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key
    from moorage.types import Digest, RepoName, Tag

__all__ = ["StoredTags", "any_child"]

_AT_ONCE: Final = 64
"""Tags checked before other requests get a turn: about 2 ms on a local disk."""

_PROVEN_AT_ONCE: Final = 8
"""Manifests whose bytes are read at the same time, by all lists of the process: each may have 4 MiB."""

_LARGEST: Final = 1 << 16


async def any_child(driver: Driver, prefix: Key) -> bool:
    """Return whether there is an object below `prefix`."""
    async for names in driver.children(prefix, limit=1):
        return bool(names)
    return False


class StoredTags:
    """See `interface.Tags`.  `tags`, `links` and `contents` are those with which requests for manifests are
    answered.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        tags: TagStore | None = None,
        links: Links | None = None,
        contents: ManifestContents | None = None,
    ) -> None:
        self._driver = driver
        self._links = Links(driver) if links is None else links
        self._tags = TagStore(driver, links=self._links) if tags is None else tags
        self._contents = ManifestContents(BlobStore(driver)) if contents is None else contents
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
        async for names in self._tags.names(name, after=last):
            found += await self._shown(name, names, alive)
        return found

    async def _first(self, name: RepoName, last: str, count: int) -> Sequence[str]:
        found: list[str] = []
        alive: set[Digest] = set()
        size = count
        while True:
            names: list[str] = []
            async for page in self._tags.names(name, after=last, limit=size):
                names += page
            found += await self._shown(name, names, alive)
            if len(names) < size or len(found) >= count:
                return found
            # Where most tags are dead, pages of the requested size would list the directory again and again.
            last, size = names[-1], min(size * 4, _LARGEST)

    async def _shown(self, name: RepoName, names: Sequence[str], alive: set[Digest]) -> Sequence[str]:
        tags = list(filter(None, map(as_tag, names)))
        shown = await map_bounded(tags, lambda tag: self._is_alive(name, tag, alive), limit=_AT_ONCE)
        return [tag for tag, shows in zip(tags, shown, strict=True) if shows]

    async def _is_alive(self, name: RepoName, tag: Tag, alive: set[Digest]) -> bool:
        """Return whether the tag leads to a manifest; `alive` collects those found to be served in this request.

        One that is not served counts only while the tag still names it: a push may have moved the tag meanwhile,
        and a deletion removed what it named before.  For the same reason absence is never remembered in `alive`.
        """
        seen: Digest | None = None
        while True:
            digest = await self._tags.resolve(name, tag)
            if digest is None or digest == seen:
                return False
            if digest in alive or await self._is_served(name, digest):
                alive.add(digest)
                return True
            seen = digest

    async def _is_served(self, name: RepoName, digest: Digest) -> bool:
        if not await self._links.exists_recent(REVISION, name, digest):
            return False
        served = await self._contents.is_served(digest)
        if served is None:
            async with self._proving:
                served = await self._contents.is_served(digest)  # another tag may have led to it
                if served is None:
                    served = await self._contents.prove(digest)
                await asyncio.sleep(0)  # a local disk answers at once, and other requests need their turn
        return served
