"""Manifests that are stored and not served (schema 1, damaged bytes), so that lists do not read them every time.

Absence of content is otherwise never remembered, since another process may store it a moment later.  Here the
object exists, and the result of reading it holds while its size and time are the same, for a minute at most: a
file that is restored from a backup may have the time of the one that it replaces.  An object written a moment ago
is not remembered, since the next write may get the same time.

Above: `manifest_contents.py`.  Below: `blob_store.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.registry.blob_store import BlobStore
    from moorage.storage.driver import Stat
    from moorage.types import Digest

__all__ = ["UnservedManifests"]

_REMEMBERED: Final = 20_000
"""About 0.5 kB each."""
_LASTS_S: Final = 60.0
_SETTLED_S: Final = 2.0
"""Longer than the resolution of a store's times, which is a second where HTTP dates are used."""


class UnservedManifests:
    """`clock` returns seconds since the epoch.  Methods raise StorageUnavailable."""

    def __init__(self, store: BlobStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._known: LRUCache[Digest, tuple[Stat, float]] = LRUCache(_REMEMBERED)

    async def note(self, digest: Digest, began: float) -> None:
        """Remember that reading the object, which began at `began`, showed that it is not served."""
        stat = await self._store.stat(digest)
        if stat is not None and stat.modified.timestamp() < began - _SETTLED_S:
            self._known.put(digest, (stat, began))

    async def holds(self, digest: Digest) -> bool:
        """Return whether the object is known not to be served, by one `stat`; without one if nothing is known."""
        stat, noted = self._known.get(digest) or (None, 0.0)
        if stat is None:
            return False
        if 0 <= self._clock() - noted < _LASTS_S and await self._store.stat(digest) == stat:
            return True
        self._known.drop(digest)
        return False

    def now(self) -> float:
        """Return the time of the clock, for `note`."""
        return self._clock()
