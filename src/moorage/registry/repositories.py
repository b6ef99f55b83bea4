"""The catalog: every repository that ever held a manifest, component by component.

`/` sorts before every other character: `a`, `a/b`, `a-b`.  The tree is walked in that order from `last` on, and
only as far as the page reaches (a few directories beyond it are looked into at once); `last` need not exist.
What is spelt like no repository's name is not one: `_layers`, `lost+found`, or the upper-case names that
Distribution took and clients cannot spell.

Source: docs/reference/http-api.md, section 9.2, docs/reference/storage-layout.md, section 1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.concurrency import gather_all
from moorage.errors import NameInvalid
from moorage.registry import layout
from moorage.registry.interface import Page
from moorage.registry.storage_errors import refusing
from moorage.types import NAME_LIMIT_CHARS, RepoName, parse_repo_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Driver

__all__ = ["StoredRepositories", "homes", "walk"]

_AHEAD: Final = 16
_PAGE: Final = 1000
_LARGEST: Final = 1 << 16
_RESERVED: Final = "_"
"""Names that begin with it sort between upper and lower case; there are few in a repository."""
_RESERVED_LIMIT: Final = 16


async def walk(driver: Driver, *, last: str = "", page: int = _PAGE) -> AsyncIterator[RepoName]:
    """Repositories after `last`, lazily; `page` names of a directory are asked for at first."""
    async for name in _after(driver, "", last.split("/") if last else [], page):
        yield name


async def homes(driver: Driver) -> AsyncIterator[RepoName]:
    """Every repository that holds anything, also one of blobs without a manifest, which `walk` leaves out; in no
    order that matters.
    """
    waiting = [""]
    while waiting:
        above = waiting.pop()
        held = False
        key = layout.repository(RepoName(above)) if above else layout.REPOSITORIES
        async for names in driver.children(key):
            held = held or any(name.startswith(_RESERVED) for name in names)
            paths = (_join(above, name) for name in names if _is_component(name))
            waiting += [path for path in paths if _fits(path)]
        if held and above:
            yield RepoName(above)


async def _after(driver: Driver, above: str, last: Sequence[str], page: int) -> AsyncIterator[RepoName]:
    """Repositories below `above` that come after `above` + `last`."""
    after = ""
    if last:
        after = last[0]
        if _is_component(after):
            async for name in _after(driver, _join(above, after), last[1:], page):
                yield name
    async for name in _below(driver, above, await _children(driver, above, after, page), page):
        yield name


async def _below(driver: Driver, above: str, names: Sequence[str], page: int) -> AsyncIterator[RepoName]:
    """Repositories below `above`, of which `names` are the first `page` children."""
    size = page
    while True:
        paths = [path for path in (_join(above, name) for name in names if _is_component(name)) if _fits(path)]
        ahead = min(_AHEAD, page)
        for start in range(0, len(paths), ahead):
            few = paths[start : start + ahead]
            insides = await gather_all(*(_children(driver, path, "", page) for path in few))
            for path, inside in zip(few, insides, strict=True):
                if await _is_repository(driver, path, inside, page):
                    yield RepoName(path)
                if any(_is_component(name) for name in inside):
                    async for name in _below(driver, path, inside, page):
                        yield name
        if len(names) < size:
            return
        # Where most names are no repositories, small pages would list a large directory again and again.
        size, after = min(size * 4, _LARGEST), names[-1]
        names = await _children(driver, above, after, size)


async def _is_repository(driver: Driver, path: str, inside: Sequence[str], page: int) -> bool:
    if layout.MANIFESTS_NAME in inside or len(inside) < page:
        return layout.MANIFESTS_NAME in inside
    return layout.MANIFESTS_NAME in await _children(driver, path, _RESERVED, _RESERVED_LIMIT)


async def _children(driver: Driver, path: str, after: str, limit: int) -> Sequence[str]:
    key = layout.repository(RepoName(path)) if path else layout.REPOSITORIES
    found: list[str] = []
    async for names in driver.children(key, after=after, limit=limit):
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
    """See `interface.Repositories`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def list(self, *, last: str = "", limit: int) -> Page:
        found: list[RepoName] = []
        with refusing():
            async for name in walk(self._driver, last=last, page=limit + 8):
                found.append(name)
                if len(found) > limit:
                    break
        return Page(tuple(found[:limit]), more=len(found) > limit)
