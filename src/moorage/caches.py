"""What a process may remember: facts that a digest makes immutable, and what it saw a moment ago."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BoundedCache", "Recent"]

_K = TypeVar("_K")
_V = TypeVar("_V")


class Recent(Generic[_K]):
    """Sizes of what was seen in the last `lasts_s` seconds: far less than a collector waits before it sweeps.

    For blobs' bytes in a store that is far away: whoever pushed the layers of an image a moment ago need not
    wait for one question for each of them when the manifest comes.  Never for links, which clients delete.
    """

    def __init__(self, lasts_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts_s, self._clock = lasts_s, clock
        self._seen: BoundedCache[_K, tuple[int, float]] = BoundedCache(10_000)

    def note(self, key: _K, size: int) -> None:
        """Remember that `size` bytes were seen now."""
        if self._lasts_s:
            self._seen.put(key, (size, self._clock()))

    def get(self, key: _K) -> int | None:
        """Return the size in bytes; None if it was not seen, or too long ago."""
        size, at = self._seen.get(key) or (None, 0.0)
        return size if size is not None and self._clock() - at < self._lasts_s else None


class BoundedCache(Generic[_K, _V]):
    """The most recently used entries, `limit` of them by weight (1 each unless told); 0 remembers nothing.

    `requests` and `hits` count what was asked for and what of that was there.
    """

    def __init__(self, limit: int) -> None:
        self.requests = self.hits = 0
        self._limit = limit
        self._weight = 0
        self._entries: OrderedDict[_K, tuple[_V, int]] = OrderedDict()

    def get(self, key: _K) -> _V | None:
        self.requests += 1
        entry = self._entries.get(key)
        if entry is None:
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: _K, value: _V, weight: int = 1) -> None:
        self.drop(key)
        if weight > self._limit:
            return
        self._entries[key] = (value, weight)
        self._weight += weight
        while self._weight > self._limit:
            _, (_, gone) = self._entries.popitem(last=False)
            self._weight -= gone

    def drop(self, key: _K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry[1]

    def __contains__(self, key: object) -> bool:
        """Return whether there is an entry; counts neither as a request nor as a use."""
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
