"""Tags: the names below `_manifests/tags`, and nothing is read for what a page does not show.

A page of at most `limit` tags shows only what can be pulled: the link of each of its tags is read and the
manifest's looked for, and the page is filled up again.  Left out are tags whose push died before its link was
written (the reference shows those for ever, Distribution issue 936) and tags whose manifest was deleted by digest
(`manifests.py` has the why).  The list of all tags at once is read from the names alone, unless the repository
keeps marks of such deletions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.errors import NameUnknown, TagInvalid
from moorage.registry import layout
from moorage.registry.interface import Page
from moorage.registry.links import has_link, read_link
from moorage.registry.refusals import refusing
from moorage.registry.slices import each
from moorage.types import Tag, parse_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName

__all__ = ["StoredTags", "any_child"]

_AT_ONCE: Final = 64
"""Tags looked at before other requests get a turn: about 2 ms on a local disk."""

_LARGEST: Final = 1 << 16


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
            found = await self._all(name, last) if limit is None else await self._first(name, last, limit + 1)
            if not found and not await any_child(self._driver, layout.manifests(name)):
                raise NameUnknown(name, detail={"name": name})
        return Page(tuple(found[:limit]), more=limit is not None and len(found) > limit)

    async def _all(self, name: RepoName, last: str) -> Sequence[str]:
        found: list[str] = []
        async for names in self._driver.children(layout.tags(name), after=last):
            found += names
        if await any_child(self._driver, layout.deleted_marks(name)):
            return await self._alive(name, found)
        return [tag for tag in found if _is_tag(tag)]

    async def _first(self, name: RepoName, last: str, wanted: int) -> Sequence[str]:
        found: list[str] = []
        size = wanted
        while True:
            names: list[str] = []
            async for page in self._driver.children(layout.tags(name), after=last, limit=size):
                names += page
            found += await self._alive(name, names)
            if len(names) < size or len(found) >= wanted:
                return found
            # Where most tags are dead, pages of the asked size would list the directory again and again.
            last, size = names[-1], min(size * 4, _LARGEST)

    async def _alive(self, name: RepoName, tags: Sequence[str]) -> Sequence[str]:
        async def check(tag: str) -> bool:
            if not _is_tag(tag):
                return False
            digest = await read_link(self._driver, layout.tag_link(name, Tag(tag)))
            return digest is not None and await has_link(self._driver, layout.revision_link(name, digest))

        shown = await each(tags, check, at_once=_AT_ONCE)
        return [tag for tag, alive in zip(tags, shown, strict=True) if alive]


def _is_tag(name: str) -> bool:
    """What an administrator left there under another name is no tag."""
    try:
        parse_tag(name)
    except TagInvalid:
        return False
    return True
