"""Old uploads in an object store, found by listings alone.

Used by `chunk_log.py` and `storage/azure/uploads.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.storage.driver import Key
from moorage.storage.keys import check_key, is_component
from moorage.storage.object_store.listing import names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from moorage.storage.object_store.interface import ObjectStore

__all__ = ["abandoned"]

_UPLOADS: Final = "_uploads"


async def abandoned(objects: ObjectStore, under: Key, before: datetime) -> AsyncIterator[Key]:
    """See `driver.Uploads.abandoned`."""
    check_key(under)
    waiting = [under]
    while waiting:
        prefix = waiting.pop()
        if prefix.rpartition("/")[2] == _UPLOADS:
            async for home in _old(objects, prefix, before):
                yield home
            continue
        async for page in names(objects, prefix):
            waiting += [Key(f"{prefix}/{name}") for name in page if name == _UPLOADS or not name.startswith("_")]


async def _old(objects: ObjectStore, prefix: Key, before: datetime) -> AsyncIterator[Key]:
    """Yield old homes directly below a repository's `_uploads`, by one listing of all its objects."""
    began: dict[str, datetime] = {}
    touched: dict[str, datetime] = {}
    async for page in objects.walk(prefix):
        for stat in page:
            name, _, rest = stat.key[len(prefix) + 1 :].partition("/")
            if not rest or not is_component(name):
                continue
            if rest == "startedat":
                began[name] = stat.modified
            touched[name] = max(touched.get(name, stat.modified), stat.modified)
    for name, last in sorted(touched.items()):
        if began.get(name, last) < before:
            yield Key(f"{prefix}/{name}")
