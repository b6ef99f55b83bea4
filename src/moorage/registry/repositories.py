"""The catalog: every repository that ever held a manifest, component by component.

`/` sorts before every other character: `a`, `a/b`, `a-b`.  The tree is walked in that order from `last` on, and
only as far as the page reaches; `last` need not exist.

Source: reference/http-api.md 9.2, reference/storage-layout.md 1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.registry import layout
from moorage.registry.interface import Page
from moorage.registry.refusals import refusing
from moorage.storage.driver import Key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Driver

__all__ = ["StoredRepositories", "walk"]

_MARKER = layout.MANIFESTS_NAME


async def walk(driver: Driver, *, last: str = "", page: int = 1000) -> AsyncIterator[str]:
    """Names of repositories after `last`, lazily; `page` names of a directory are asked for at a time."""
    async for name in _below(driver, "", last.split("/") if last else [], page):
        yield name


async def _below(driver: Driver, above: str, last: Sequence[str], page: int) -> AsyncIterator[str]:
    """Repositories below `above`, greater than `above` + `last`."""
    after = ""
    if last:
        after = last[0]
        if after and not after.startswith("_"):
            async for name in _below(driver, _join(above, after), last[1:], page):
                yield name
    while True:
        names = await _children(driver, above, after, page)
        for child in names:
            if child.startswith("_"):
                continue
            path = _join(above, child)
            inside = await _children(driver, path, "", page)
            if _MARKER in inside or (len(inside) == page and await _has_marker(driver, path)):
                yield path
            if any(not name.startswith("_") for name in inside):
                async for name in _below(driver, path, (), page):
                    yield name
        if len(names) < page:
            return
        after = names[-1]


def _join(above: str, child: str) -> str:
    return f"{above}/{child}" if above else child


async def _children(driver: Driver, path: str, after: str, limit: int) -> list[str]:
    key = Key(f"{layout.REPOSITORIES}/{path}") if path else layout.REPOSITORIES
    found: list[str] = []
    async for names in driver.children(key, after=after, limit=limit):
        found += names
    return found


async def _has_marker(driver: Driver, path: str) -> bool:
    async for names in driver.children(Key(f"{layout.REPOSITORIES}/{path}"), after="_", limit=10):
        return _MARKER in names
    return False


class StoredRepositories:
    """See `interface.Repositories`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def list(self, *, last: str = "", limit: int) -> Page:
        found: list[str] = []
        with refusing():
            async for name in walk(self._driver, last=last, page=limit + 8):
                found.append(name)
                if len(found) > limit:
                    break
        return Page(tuple(found[:limit]), more=len(found) > limit)
