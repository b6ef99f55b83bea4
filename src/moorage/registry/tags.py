"""Tags: the names below `_manifests/tags`, and nothing else is read for a page of them.

One exception: while the repository keeps marks of manifests deleted by digest (`manifests.py` has the why),
some tags may be dead, so the link of each tag on the page is read, and the page is filled up again.

Like the reference, a tag whose push died before its link was written is listed and answers MANIFEST_UNKNOWN.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from moorage.errors import NameUnknown
from moorage.registry import layout
from moorage.registry.interface import Page
from moorage.registry.links import has_link, read_link
from moorage.registry.refusals import refusing
from moorage.types import Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName

__all__ = ["StoredTags", "any_child"]

_AT_ONCE: Final = 200
"""Links read before other requests get a turn: about 3 ms on a local disk."""


async def any_child(driver: Driver, prefix: Key) -> bool:
    """Is there anything below `prefix`?"""
    async for names in driver.children(prefix, limit=1):
        return bool(names)
    return False


class StoredTags:
    """See `interface.Tags`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def list(self, name: RepoName, *, last: str = "", limit: int | None = None) -> Page:
        with refusing():
            marked = await any_child(self._driver, layout.deleted_marks(name))
            wanted = None if limit is None else limit + 1
            found: list[str] = []
            async for names in self._names(name, last, wanted):
                found += await self._alive(name, names) if marked else names
                if wanted is not None and len(found) >= wanted:
                    break
            if not found and not await any_child(self._driver, layout.manifests(name)):
                raise NameUnknown(name, detail={"name": name})
        return Page(tuple(found[:limit]), more=limit is not None and len(found) > limit)

    async def _names(self, name: RepoName, last: str, size: int | None) -> AsyncIterator[Sequence[str]]:
        """Pages of `size` names after `last`, until none is left; all at once without a size."""
        while True:
            seen = 0
            async for names in self._driver.children(layout.tags(name), after=last, limit=size):
                yield names
                seen, last = seen + len(names), names[-1]
            if size is None or seen < size:
                return

    async def _alive(self, name: RepoName, tags: Sequence[str]) -> Sequence[str]:
        kept = []
        for start in range(0, len(tags), _AT_ONCE):
            await asyncio.sleep(0)
            for tag in tags[start : start + _AT_ONCE]:
                digest = await read_link(self._driver, layout.tag_link(name, Tag(tag)))
                if digest is not None and await has_link(self._driver, layout.revision_link(name, digest)):
                    kept.append(tag)
        return kept
