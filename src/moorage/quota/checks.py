"""Checks of quotas, and look-ups of what a repository has, for the parts of `registry.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.caches import TTLCache
from moorage.errors import QuotaExceeded
from moorage.quota.count import stored_sizes
from moorage.quota.facts import BLOB, TAG, Thing
from moorage.quota.limits import format_size
from moorage.registry.links import REVISION, Links
from moorage.registry.storage_errors import refusing
from moorage.registry.tags import TagStore

if TYPE_CHECKING:
    from moorage.quota.usage import Usage
    from moorage.registry.links import LinkKind
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName, Tag

__all__ = ["QuotaChecks"]

_ABSENT_S: Final = 300.0
"""Seconds for which a blob that a HEAD has not found is taken as absent.  If another process stores it meanwhile,
both count it by the same fact, once."""
_ABSENT: Final = 50_000


class QuotaChecks:
    """Checks against the limits, and look-ups of what a repository has."""

    def __init__(self, driver: Driver, usage: Usage) -> None:
        self.usage = usage
        self.driver = driver
        self.tags = TagStore(driver)
        self.size_of = stored_sizes(driver)
        self._links = Links(driver)
        self._absent: TTLCache[tuple[RepoName, Digest], bool] = TTLCache(_ABSENT, _ABSENT_S)

    def covers(self, name: RepoName) -> bool:
        return bool(self.usage.limits_of(name))

    def counts_tags(self, name: RepoName) -> bool:
        return any(limit.tags is not None for limit in self.usage.limits_of(name))

    def require(self, name: RepoName, size: int, tags: int = 0) -> None:
        """Raise QuotaExceeded if so many more bytes and tags exceed a limit."""
        for limit in self.usage.limits_of(name):
            used = self.usage.used(limit)
            if used is None:
                continue
            if size and limit.bytes is not None and used[0] + size > limit.bytes:
                self.usage.doubt(limit)
                raise QuotaExceeded(
                    f"{limit.pattern} uses {format_size(used[0])} of {format_size(limit.bytes)}, "
                    f"and {format_size(size, up=True)} more do not fit",
                    detail={"repositories": limit.pattern, "used": used[0], "limit": limit.bytes, "more": size},
                )
            if tags and limit.tags is not None and used[1] + tags > limit.tags:
                self.usage.doubt(limit)
                raise QuotaExceeded(
                    f"{limit.pattern} has {used[1]} of {limit.tags} tags",
                    detail={"repositories": limit.pattern, "tags": used[1], "limit": limit.tags, "more": tags},
                )

    def not_there(self, name: RepoName, digest: Digest) -> None:
        """Remember that a HEAD has not found a blob."""
        self._absent.put((name, digest), value=True)

    async def has(self, kind: LinkKind, name: RepoName, digest: Digest) -> bool:
        """Return whether a repository links a blob or manifest."""
        if self.usage.value(_blob(name, digest)):
            return True
        if self._absent.get((name, digest)):
            return False
        with refusing():
            return await self._links.exists(kind, name, digest)

    async def has_tag(self, name: RepoName, tag: Tag) -> bool:
        """Return whether a tag leads to a manifest."""
        if self.usage.value(Thing(TAG, name, tag)):
            return True
        with refusing():
            digest = await self.tags.resolve(name, tag)
            return digest is not None and await self._links.exists(REVISION, name, digest)

    def linked(self, name: RepoName, digest: Digest, size: int, *, new: bool) -> None:
        """Count a link that was written."""
        self._absent.drop((name, digest))
        if new:
            self.usage.record(_blob(name, digest), 0, size)

    def unlinked(self, name: RepoName, digest: Digest, size: int) -> None:
        self.usage.record(_blob(name, digest), size, 0)


def _blob(name: RepoName, digest: Digest) -> Thing:
    return Thing(BLOB, name, str(digest))
