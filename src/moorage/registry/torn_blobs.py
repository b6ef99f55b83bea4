"""Blobs whose stored bytes are not those of their digest: torn by a crash or a full disk of whatever wrote them.

An object of no bytes is torn, unless its digest is that of no bytes.  Of any other object only its bytes tell, and
to read them for each request would cost more than it finds.  So they are read when two sizes differ: a manifest is
pushed whose descriptor has another size than the store, or the store has another size than it had when it was last
asked (`blobs.py`).  The result is remembered until the object is written again, so each blob is read once in a
process, and one at a time.

A mark beside the bytes holds the size that they had, for other processes: such an object is not mounted, and
where a look at the mark costs no request to another host, not served.  A push also removes its repository's link
to a torn blob (`manifests.py`); a pull does not, since an operator may be restoring the file.  An old mark does no
harm: an object of another size is another one, and one of that size is read, and loses the mark if it is whole.
A mark that is not a number alone, as a later version may write one, is as if it were not there.

What is torn counts as missing: clients upload it again, and a published upload replaces the object.
Not found: a blob cut short before its size was first asked for, and one with other bytes of the same length.
`moorage storage check` finds both.

Above: `blobs.py`, `manifests.py`, `uploads.py`.  Below: `contents.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import BoundedCache
from moorage.concurrency import gather_all
from moorage.registry import layout
from moorage.registry.contents import hashed
from moorage.storage.driver import KeyMissing, ObjectTooLarge, RequestCost, StorageExhausted

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.storage.driver import Driver, Stat
    from moorage.types import Digest

__all__ = ["TornBlobs", "is_empty_in_error"]

_EMPTY: Final = {name: hashlib.new(name).hexdigest() for name in ("sha256", "sha512")}
_REMEMBERED: Final = 10_000
_MARK_BYTES: Final = 32
_log: Final = structlog.get_logger("moorage.registry")


def is_empty_in_error(digest: Digest, size: int) -> bool:
    """Return whether `size` is 0 although `digest` is not that of no bytes."""
    return size == 0 and digest.hex != _EMPTY[digest.algorithm]


class TornBlobs:
    """Torn blobs known to this process.  Digests are those under which the bytes are stored; sizes are bytes.

    Methods raise StorageUnavailable.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._proven: BoundedCache[Digest, _Proof] = BoundedCache(_REMEMBERED)
        self._reading = asyncio.Lock()

    def is_suspect(self, digest: Digest, size: int) -> bool:
        """Return whether a remembered `size` may be that of a torn object, so that the store must be asked."""
        if size and not len(self._proven):
            return False  # nearly always
        known = self._proven.get(digest)
        return is_empty_in_error(digest, size) or (known is not None and not known.whole and known.size == size)

    async def size(self, digest: Digest) -> int | None:
        """Return the size in the store; None if there is no object or it is known to be torn."""
        stat = await self._stat(digest)
        if stat is None or is_empty_in_error(digest, stat.size):
            return None
        known = self._proven.get(digest)
        return None if known is not None and known.is_of(stat) and not known.whole else stat.size

    async def mountable_size(self, digest: Digest) -> int | None:
        """Return what `size` does, but None for an object that any process has found to be torn.

        Reads all bytes of an object of the size that such a one had, as `proven_size` does.
        """
        if self._driver.request_cost is RequestCost.NETWORK:
            size, marked = await gather_all(self.size(digest), self._marked_size(digest))
        else:  # a local driver answers at once, and tasks would cost ten times as much
            size, marked = await self.size(digest), await self._marked_size(digest)
        if size is None or size != marked:
            return size
        if (size := await self.proven_size(digest)) is not None:
            with suppress(StorageExhausted):  # read-only: the next process reads it again
                await self._driver.delete([layout.torn_mark(digest)])
        return size

    async def served_size(self, digest: Digest) -> int | None:
        """Return what `mountable_size` does; what `size` does where the mark would cost a request."""
        return await (
            self.size(digest) if self._driver.request_cost is RequestCost.NETWORK else self.mountable_size(digest)
        )

    async def _marked_size(self, digest: Digest) -> int | None:
        try:
            return int((await self._driver.read(layout.torn_mark(digest), limit=_MARK_BYTES)).data)
        except (KeyMissing, ObjectTooLarge, ValueError):
            return None

    async def proven_size(self, digest: Digest) -> int | None:
        """Return the size in the store; None if there is no object or its bytes are not those of `digest`.

        Reads all bytes, unless that was done since they were written.
        """
        async with self._reading:
            stat = await self._stat(digest)
            if stat is None:
                return None
            known = self._proven.get(digest)
            if known is None or not known.is_of(stat):
                try:
                    found, size = await hashed(self._driver, stat.key, digest.algorithm)
                except KeyMissing:
                    return None
                known = _Proof(size, stat.modified, whole=found == digest.hex)
                self._proven.put(digest, known)
                if not known.whole:
                    _log.error(
                        "a blob is torn and counts as missing; pushing it again repairs it",
                        digest=str(digest),
                        size=size,
                    )
                    with suppress(StorageExhausted):  # full or read-only: each process finds it by itself
                        await self._driver.write(layout.torn_mark(digest), str(size).encode())
        return known.size if known.whole else None

    def published(self, digest: Digest) -> None:
        """Forget what was known: an upload has just proven bytes of `digest`."""
        self._proven.drop(digest)

    async def _stat(self, digest: Digest) -> Stat | None:
        try:
            return await self._driver.stat(layout.blob_data(digest))
        except KeyMissing:
            return None


@dataclass(frozen=True, slots=True)
class _Proof:
    """What reading an object showed; it holds as long as the object has this size and time."""

    size: int
    modified: datetime
    whole: bool

    def is_of(self, stat: Stat) -> bool:
        return (self.size, self.modified) == (stat.size, stat.modified)
