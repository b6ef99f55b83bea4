"""Names in order, from stores that sort keys.

A store lists the prefixes `1.0-alpine/`, `1.0.1/`, `1.0/` in this order, because `-` and `.` sort before `/`; in
order of the names `1.0` is the first.  CNCF Distribution pages by one order and compares by the other, and loses
tags.

A name P comes later among the keys than among the names exactly when it is the beginning of a name that continues
with a character before the slash (`-` or `.`): all keys between such a name and `P/` begin with P and such a
character.  So a page of keys is complete but for the few names that the page's *last* key begins with and
whose own keys follow it; those are requested, if they belong to the result.  Every later key
then has a name greater than all of this page's.

Source: docs/reference/object-storage.md, section 6.2; the argument is tested against sorted() in tests/storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.storage.driver import Key
from moorage.storage.keys import is_component

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.object_store.interface import Pages

__all__ = ["any_below", "names"]

_PAGE: Final = 1000
_SMALL_PAGE: Final = 64


async def names(
    objects: Pages, prefix: Key, *, after: str = "", limit: int | None = None
) -> AsyncIterator[Sequence[str]]:
    """See `Driver.children`."""
    early: set[str] = set()  # emitted, and their keys may still follow
    left, token = limit, ""
    while left is None or left > 0:
        size = _PAGE if left is None else min(_PAGE, max(left + 1, _SMALL_PAGE))
        page = await objects.page(prefix, after="" if token else after, token=token, limit=size)
        found = {name for name in page.names if name > after and name not in early and is_component(name)}
        if page.token and page.names:
            last = page.names[-1]
            shown = sorted(found)[:left]
            end = shown[-1] if left is not None and len(shown) == left else None
            for name in _later(last):
                shows = name > after and name not in found | early and (end is None or name < end)
                if shows and await any_below(objects, Key(f"{prefix}/{name}")):
                    found.add(name)
            early |= {name for name in found if last.startswith(name)}
        if shown := sorted(found)[:left]:
            yield shown
        left = None if left is None else left - len(shown)
        token = page.token
        if not token:
            return


async def any_below(objects: Pages, prefix: Key) -> bool:
    """Return whether there is an object below `prefix`."""
    return bool((await objects.page(prefix, limit=1)).names)


def _later(last: str) -> Sequence[str]:
    """Return the beginnings of `last` whose keys sort after it."""
    return [last[:index] for index, character in enumerate(last) if character < "/" and index]
