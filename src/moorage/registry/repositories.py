"""The catalog: every repository that ever held a manifest, component by component.

`/` sorts before every other character: `a`, `a/b`, `a-b`.  The tree is listed in that order from `last` on, and
only as far as the page reaches (16 directories beyond it are listed at once); `last` need not exist.  A name that
breaks the specification's grammar is no repository: `_layers`, `lost+found`, or the upper-case names that CNCF
Distribution accepted and clients cannot send.

Source: docs/reference/http-api.md, section 9.2, docs/reference/storage-layout.md, section 1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.concurrency import gather_all
from moorage.errors import NameInvalid, Unsupported
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.interface import UNKNOWN_CALLER, Page
from moorage.registry.links import Links
from moorage.registry.repository_removal import RepositoryRemoval
from moorage.registry.storage_errors import refusing
from moorage.registry.trash import DELETED_BY_CLIENT, Trash
from moorage.shielding import run_to_completion
from moorage.types import NAME_LIMIT_CHARS, RepoName, parse_repo_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from moorage.registry.interface import Caller
    from moorage.registry.protection import ProtectionCheck
    from moorage.registry.repository_removal import RemovedRepository
    from moorage.storage.driver import Driver

__all__ = ["StoredRepositories", "repository_names"]

_AHEAD: Final = 16
_PAGE: Final = 1000
_LARGEST: Final = 1 << 16
_RESERVED: Final = "_"
"""Names that begin with it sort between upper and lower case; there are few in a repository."""
_BEFORE_RESERVED: Final = "^"
_RESERVED_LIMIT: Final = 16


async def repository_names(
    driver: Driver, *, after: str = "", with_manifests: bool = True, page: int = _PAGE
) -> AsyncIterator[RepoName]:
    """Yield the repositories after `after`, lazily and in order.

    Those of the catalog; without `with_manifests` every one that holds anything, such as layers only.  `page` is
    the number of names that are requested of a directory at first.  Raises StorageUnavailable.
    """
    tree = _Tree(driver, with_manifests=with_manifests, page=page)
    async for name in tree.after("", after.split("/") if after else []):
        yield name


class _Tree:
    """The directories below `repositories/`, of which some are repositories."""

    def __init__(self, driver: Driver, *, with_manifests: bool, page: int) -> None:
        self._driver = driver
        self._with_manifests = with_manifests
        self._page = page

    async def after(self, above: str, last: Sequence[str]) -> AsyncIterator[RepoName]:
        """Yield the repositories below `above` that come after `above` + `last`."""
        start = ""
        if last:
            start = last[0]
            if _is_component(start):
                async for name in self.after(_join(above, start), last[1:]):
                    yield name
        async for name in self._below(above, await self._children(above, start, self._page)):
            yield name

    async def _below(self, above: str, names: Sequence[str]) -> AsyncIterator[RepoName]:
        """Yield the repositories below `above`, of which `names` are the first children."""
        size = self._page
        while True:
            paths = [path for path in (_join(above, name) for name in names if _is_component(name)) if _fits(path)]
            ahead = min(_AHEAD, self._page)
            for start in range(0, len(paths), ahead):
                few = paths[start : start + ahead]
                insides = await gather_all(*(self._children(path, "", self._page) for path in few))
                for path, inside in zip(few, insides, strict=True):
                    if await self._is_repository(path, inside):
                        yield RepoName(path)
                    if any(_is_component(name) for name in inside):
                        async for name in self._below(path, inside):
                            yield name
            if len(names) < size:
                return
            # Where most names are no repositories, small pages would list a large directory again and again.
            size, after = min(size * 4, _LARGEST), names[-1]
            names = await self._children(above, after, size)

    async def _is_repository(self, path: str, inside: Sequence[str]) -> bool:
        if len(inside) >= self._page and inside[-1] <= layout.REMOVING_NAME:
            inside = await self._children(path, _BEFORE_RESERVED, _RESERVED_LIMIT)
        if not self._holds(inside):
            return False
        if not self._with_manifests or layout.REMOVING_NAME not in inside:
            return True
        # Its removal has begun, and takes a while for 100,000 tags.
        revisions = layout.revisions(RepoName(path))
        async for algorithms in self._driver.children(revisions):
            for algorithm in algorithms:
                async for _ in self._driver.children(layout.below(revisions, algorithm), limit=1):
                    return True
        return False

    def _holds(self, names: Sequence[str]) -> bool:
        if self._with_manifests:
            return layout.MANIFESTS_NAME in names
        return any(name.startswith(_RESERVED) for name in names)

    async def _children(self, path: str, after: str, limit: int) -> Sequence[str]:
        key = layout.repository(RepoName(path)) if path else layout.REPOSITORIES
        found: list[str] = []
        async for names in self._driver.children(key, after=after, limit=limit):
            found += names
        return found


def _is_component(name: str) -> bool:
    if "/" in name:
        return False
    try:
        parse_repo_name(name)
    except NameInvalid:
        return False
    return True


def _join(above: str, child: str) -> str:
    return f"{above}/{child}" if above else child


def _fits(path: str) -> bool:
    return len(path) <= NAME_LIMIT_CHARS


class StoredRepositories:
    """See `interface.Repositories`.  Parts that are not given are made for this object alone."""

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        store: BlobStore | None = None,
        links: Links | None = None,
        trash: Trash | None = None,
        protected: ProtectionCheck | None = None,
    ) -> None:
        self._driver = driver
        self._protected = protected
        self._delete_enabled = delete_enabled
        self._store = BlobStore(driver) if store is None else store
        self._links = Links(driver) if links is None else links
        self._trash = Trash(driver, keep_s=0) if trash is None else trash

    async def delete(self, name: RepoName, *, caller: Caller = UNKNOWN_CALLER) -> RemovedRepository:
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            if self._protected is not None:
                await self._protected.check_repository_deletion(name)
            return await run_to_completion(self.removal(name).run(by=caller.user, reason=DELETED_BY_CLIENT))

    def removal(self, name: RepoName, progress: Callable[[int], None] | None = None) -> RepositoryRemoval:
        """Return the removal of a repository, which is not begun; whether clients may delete is not asked."""
        return RepositoryRemoval(
            self._driver, name, store=self._store, links=self._links, trash=self._trash, progress=progress
        )

    async def list(self, *, last: str = "", limit: int) -> Page:
        found: list[RepoName] = []
        with refusing():
            async for name in repository_names(self._driver, after=last, page=limit + 8):
                found.append(name)
                if len(found) > limit:
                    break
        return Page(tuple(found[:limit]), more=len(found) > limit)
