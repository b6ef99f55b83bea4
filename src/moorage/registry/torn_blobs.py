"""Results of reading blobs whose bytes might not be those of their digest, kept per process.

An object of no bytes is torn, unless its digest is that of no bytes.  Any other object is torn or not only by its
bytes, and reading them for each request would cost more than it finds.  `blob_store.py` has the occasions on which
they are read, and the mark that other processes find.

A result is kept until the object is written again, so each blob is read once in a process.

Above: `blob_store.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.storage.driver import Stat
    from moorage.types import Digest

__all__ = ["TornBlobs", "is_empty_in_error"]

_EMPTY: Final = {name: hashlib.new(name).hexdigest() for name in ("sha256", "sha512")}
_REMEMBERED: Final = 10_000


def is_empty_in_error(digest: Digest, size: int) -> bool:
    """Return whether `size` is 0 although `digest` is not that of no bytes."""
    return size == 0 and digest.hex != _EMPTY[digest.algorithm]


class TornBlobs:
    """Blobs that this process has read.  Digests are those under which the bytes are stored; sizes are bytes."""

    def __init__(self) -> None:
        self._known: LRUCache[Digest, _Proof] = LRUCache(_REMEMBERED)

    def is_suspect(self, digest: Digest, size: int) -> bool:
        """Return whether a remembered `size` may be that of a torn object, so that the store has to be read."""
        if size and not len(self._known):
            return False  # nearly always
        known = self._known.get(digest)
        return is_empty_in_error(digest, size) or (known is not None and not known.whole and known.size == size)

    def size_of(self, digest: Digest, stat: Stat) -> int | None:
        """Return the size of an object in the store; None if it is known to be torn."""
        if is_empty_in_error(digest, stat.size):
            return None
        return None if self.is_whole(digest, stat) is False else stat.size

    def is_whole(self, digest: Digest, stat: Stat) -> bool | None:
        """Return whether the object has the bytes of its digest; None if it was not read since it was written."""
        known = self._known.get(digest)
        return known.whole if known is not None and known.is_of(stat) else None

    def note(self, digest: Digest, size: int, modified: datetime, *, whole: bool) -> None:
        """Keep the result of reading an object of this time, which had `size` bytes."""
        self._known.put(digest, _Proof(size, modified, whole=whole))

    def forget(self, digest: Digest) -> None:
        """Forget the result: an upload has just replaced the object by proven bytes."""
        self._known.drop(digest)


@dataclass(frozen=True, slots=True)
class _Proof:
    """Result of reading an object; valid as long as the object has this size and time."""

    size: int
    modified: datetime
    whole: bool

    def is_of(self, stat: Stat) -> bool:
        return (self.size, self.modified) == (stat.size, stat.modified)
