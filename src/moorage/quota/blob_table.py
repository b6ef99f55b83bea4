"""Table of the sizes of all blobs: 16 bytes each, from one listing, which costs a bucket few requests.

A blob is known by the first 8 bytes of its digest.  Two of a million blobs have the same ones with a probability
of one in 30 million; one of them would be shown with the size of the other.

Above: `count.py`, `report.py`.  Below: `registry/walk.py`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from moorage.registry.blob_store import BlobStore
from moorage.registry.walk import visit_blobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.registry.walk import ListedBlob
    from moorage.storage.driver import Driver
    from moorage.types import Digest

__all__ = ["BlobTable"]

_BUCKETS: Final = 256
_SHORT_HEX: Final = 16
_SHIFT: Final = 56


class BlobTable:
    """Numbers and sizes of blobs.  `number` counts from 0, without gaps; it is valid after `load`."""

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(_BUCKETS)]
        self._sizes = [array("Q") for _ in range(_BUCKETS)]
        self._starts = [0] * _BUCKETS

    @classmethod
    async def load(cls, driver: Driver, listed: Callable[[int], None] | None = None) -> BlobTable:
        """List all blobs; `listed` is called with the number of each page.  Raises StorageUnavailable."""
        found = cls()
        store = BlobStore(driver)

        async def visit(page: Sequence[ListedBlob]) -> None:
            for digest, stat in page:
                size = stat.size
                if size == 0:  # Swift lists an object in segments with 0 bytes
                    now = await store.stat(digest)
                    size = 0 if now is None else now.size
                found._add(digest, size)
            if listed is not None:
                listed(len(page))

        await visit_blobs(driver, visit)
        found._sort()
        return found

    def _add(self, digest: Digest, size: int) -> None:
        short = _short(digest)
        self._hashes[short >> _SHIFT].append(short)
        self._sizes[short >> _SHIFT].append(size)

    def _sort(self) -> None:
        start = 0
        for bucket in range(_BUCKETS):
            hashes, sizes = self._hashes[bucket], self._sizes[bucket]
            order = sorted(range(len(hashes)), key=hashes.__getitem__)
            self._hashes[bucket] = array("Q", (hashes[index] for index in order))
            self._sizes[bucket] = array("Q", (sizes[index] for index in order))
            self._starts[bucket] = start
            start += len(order)

    def __len__(self) -> int:
        return sum(map(len, self._hashes))

    def number(self, digest: Digest) -> int | None:
        """Return the number of a blob; None if it is not in the table."""
        short = _short(digest)
        bucket = short >> _SHIFT
        hashes = self._hashes[bucket]
        index = bisect_left(hashes, short)
        return self._starts[bucket] + index if index < len(hashes) and hashes[index] == short else None

    def sizes(self) -> array[int]:
        """Return the sizes by the numbers of their blobs."""
        found = array("Q")
        for sizes in self._sizes:
            found.extend(sizes)
        return found


def _short(digest: Digest) -> int:
    return int(digest.hex[:_SHORT_HEX], 16)
