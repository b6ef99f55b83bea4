"""Links as requests ask for them: read now, or seen a moment ago where the store is far away.

A link in a bucket is a request of 5 to 20 ms, and a pull asks for one with every blob.  So where `lasts_s` is
not 0 a process remembers links of blobs and manifests that it saw, for that long, and whoever deletes one answers
only when nobody can remember it any more:

    a reader    notes the time ──► reads the link ──► may use it until `lasts_s` after the time that it noted
    a deleter   removes the link ──► waits `lasts_s` and a little ──► tells the client that it is gone

Why no request that begins after a deletion was acknowledged is answered from such a memory.  A link that was seen
was there when it was read, so before it was removed; the time noted is earlier still; so by the end of the
deleter's wait all that was seen has expired.  It needs no word between processes, no Redis, and no common time of
day: only clocks that run at nearly the same speed (the little more is a twentieth) and go on while a machine
sleeps.  A process that stops between its look at the memory and its answer is a request that began before.

Never remembered: that a link is not there, since another process may write it the next moment; and tags, which a
push moves and must not wait for.  `read` gives those, as they are at some moment after it was called.  Where the
store is a local disk there is nothing to gain, and nothing is remembered, joined or waited for.

A tool that removes links (`moorage storage check --repair`), and CNCF Distribution on the same bucket, do not
wait: what they remove may be served for `lasts_s` more.

Above: `blobs.py`, `manifests.py`, `uploads.py`.  Below: `links.py`, `coalescing.py`.
Why: docs/decisions/0008-links.md.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from moorage.caches import BoundedCache
from moorage.coalescing import Coalescer
from moorage.registry.links import has_link, read_link, write_link
from moorage.storage.driver import RequestCost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.storage.driver import Driver, Key
    from moorage.types import Digest

__all__ = ["Links"]

_REMEMBERED: Final = 20_000
_WAIT: Final = 1.05
_WAIT_MORE_S: Final = 0.02


_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Where the system has such a clock, one that counts the time that the machine sleeps, too."""


def _seconds() -> float:
    return time.clock_gettime(_CLOCK)


class Links:
    """The links below one driver.  Everything raises StorageUnavailable, nothing KeyMissing.

    `lasts_s`: how long what was seen is used, in seconds; of no effect unless the driver is remote.
    `requests` and `hits` count what was asked for and what of that was remembered.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        lasts_s: float = 0,
        clock: Callable[[], float] = _seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver, self._clock, self._sleep = driver, clock, sleep
        self._remote = driver.request_cost is RequestCost.NETWORK
        self._lasts_s = lasts_s if self._remote else 0
        self._memory: BoundedCache[Key, tuple[Digest, float]] = BoundedCache(_REMEMBERED)
        self.requests = self.hits = 0
        self._reads: Coalescer[Key, Digest | None] = Coalescer()
        self._looks: Coalescer[Key, bool] = Coalescer()

    async def read(self, key: Key, expected: Digest | None = None) -> Digest | None:
        """The digest that the link holds now, or None."""
        if not self._remote:
            return await read_link(self._driver, key, expected)
        return await self._reads.read(key, lambda: read_link(self._driver, key, expected))

    async def seen(self, key: Key, expected: Digest | None = None) -> Digest | None:
        """The digest that the link holds, or held a moment ago; or None if it is not there now."""
        if not self._remote:
            return await read_link(self._driver, key, expected)
        if not self._lasts_s:
            return await self.read(key, expected)
        began = self._clock()
        if (known := self._remembered(key, began)) is not None:
            return known
        found = await self.read(key, expected)
        if found is not None:
            self._note(key, found, began)
        return found

    async def exists(self, key: Key, digest: Digest) -> bool:
        """Is there a link, which says `digest` by where it lies, or was there one a moment ago?"""
        if not self._remote:
            return await has_link(self._driver, key)
        began = self._clock()
        if self._remembered(key, began) is not None:
            return True
        found = await self._looks.read(key, lambda: has_link(self._driver, key))
        if found:
            self._note(key, digest, began)
        return found

    async def write(self, key: Key, digest: Digest) -> None:
        """The link is there, and lasts, when this returns."""
        began = self._clock()
        await write_link(self._driver, key, digest)
        self._note(key, digest, began)

    async def gone(self, key: Key) -> None:
        """The link has been removed; when this returns no process remembers it any more."""
        self._memory.drop(key)
        if self._lasts_s:
            await self._sleep(self._lasts_s * _WAIT + _WAIT_MORE_S)

    def _remembered(self, key: Key, now: float) -> Digest | None:
        if not self._lasts_s:
            return None
        self.requests += 1
        digest, since = self._memory.get(key) or (None, now)
        if now >= since + self._lasts_s:
            return None
        self.hits += digest is not None
        return digest

    def _note(self, key: Key, digest: Digest, began: float) -> None:
        if self._lasts_s:
            self._memory.put(key, (digest, began))
