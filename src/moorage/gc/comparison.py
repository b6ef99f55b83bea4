"""Comparison of repositories with their last examination: those that have not changed need no other.

A repository is the same if the directories that its record watches have the fingerprints that they had before they
were listed, no time in its judgement has run out, and nothing in it was to be removed or was reported.

Above: `mark.py`.  Below: `cache.py`.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from moorage.registry import layout
from moorage.storage.driver import Key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.gc.cache import MarkCache, Record
    from moorage.gc.marked import Counts
    from moorage.gc.options import CollectionOptions
    from moorage.gc.repositories import RepositoryNames
    from moorage.storage.driver import Bulk

__all__ = ["Comparison"]


class Comparison:
    """Compares repositories of one store for one mark, by the records of `cache`."""

    def __init__(self, store: Bulk, cache: MarkCache, options: CollectionOptions, now: float) -> None:
        self._store = store
        self._cache = cache
        self._now = now
        self._recheck_s = max(options.grace_s, options.undo_s)

    async def changed(self, found: Sequence[RepositoryNames], counts: Counts) -> list[RepositoryNames]:
        """Return the repositories that have changed, or whose judgement has run out; count the others."""
        again: list[RepositoryNames] = []
        asked: list[tuple[RepositoryNames, Record]] = []
        prefixes: list[Key] = []
        empties: list[Key] = []
        for names in found:
            record = self._cache.records.get(names.name)
            if record is None or not self._lasts(names, record):
                again.append(names)
                continue
            asked.append((names, record))
            root = f"{layout.REPOSITORIES}/{names.name}/"
            prefixes += [Key(root + path) for path in record.watched]
            empties += [Key(f"{root}{path}/link") for path in record.empty]
        prints = await self._store.fingerprints(prefixes)
        filled = {stat.key for stat in await self._store.find(empties) if stat is not None} if empties else set()
        start = 0
        for names, record in asked:
            end = start + len(record.watched)
            root = f"{layout.REPOSITORIES}/{names.name}/"
            if (
                None in record.prints
                or list(record.prints) != list(prints[start:end])
                or (filled and any(f"{root}{path}/link" in filled for path in record.empty))
            ):
                again.append(names)
            else:
                counts.repositories += 1
                counts.manifests += len(record.revisions)
                counts.layers += len(record.layers)
            start = end
        return again

    def is_due(self, name: str, record: Record) -> bool:
        """Return whether everything is read again, which is spread over time: a tag may have been moved unseen."""
        part = (zlib.crc32(name.encode()) / (1 << 32) + 1) / 2
        return self._now >= record.examined + self._recheck_s * part

    def _lasts(self, names: RepositoryNames, record: Record) -> bool:
        return (
            record.settled
            and record.until > self._now
            and record.reserved == names.reserved
            and not self.is_due(names.name, record)
        )
