"""The keys of a few repositories, as one listing of a bucket returned them, in the form of `storage.driver.Bulk`.

A listing of a bucket returns 1,000 keys with size and time in one request; a request for the names below each
prefix of each repository would be hundreds of times as many.  So all keys below `repositories/` are listed once,
and names and times are answered from memory; only contents are read from the store.

Above: `repositories.py`.  Below: `storage/driver.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Bulk, Key, Stat

__all__ = ["ScannedKeys"]


class ScannedKeys:
    """See `driver.Bulk`; answers for the keys that were added."""

    def __init__(self, store: Bulk) -> None:
        self._store = store
        self._stats: dict[str, Stat] = {}
        self._below: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._stats)

    def add(self, stat: Stat, root: str) -> None:
        """Add a key below `root`."""
        self._stats[stat.key] = stat
        key: str = stat.key
        while len(key) > len(root):
            key, _, name = key.rpartition("/")
            names = self._below.setdefault(key, {})
            if name in names:
                return
            names[name] = None

    async def fingerprints(self, prefixes: Sequence[Key]) -> Sequence[str | None]:
        return [None] * len(prefixes)

    async def names(self, prefixes: Sequence[Key]) -> Sequence[Sequence[str]]:
        return [list(self._below.get(prefix, ())) for prefix in prefixes]

    async def read(self, keys: Sequence[Key], *, limit: int) -> Sequence[bytes | None]:
        return await self._store.read(keys, limit=limit)

    async def find(self, keys: Sequence[Key]) -> Sequence[Stat | None]:
        return [self._stats.get(key) for key in keys]
