"""Operations on many keys at once, for walks over a whole store: `driver.Bulk`.

On a local disk a system call takes a few microseconds and a hop to a thread a hundred: `filesystem/bulk.py` makes
one hop for all keys of a call.  `OneByOne`, for the other drivers, calls the driver once per key, as many at a
time as hide the latency of another host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.storage.errors import KeyMissing, ObjectTooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key, Stat

__all__ = ["AT_ONCE", "OneByOne"]

AT_ONCE: Final = 64


class OneByOne:
    """See `driver.Bulk`: for any driver, without fingerprints."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def fingerprints(self, prefixes: Sequence[Key]) -> Sequence[str | None]:
        return [None] * len(prefixes)

    async def names(self, prefixes: Sequence[Key]) -> Sequence[Sequence[str]]:
        async def one(prefix: Key) -> list[str]:
            return [name async for page in self._driver.children(prefix) for name in page]

        return await map_bounded(prefixes, one, limit=AT_ONCE)

    async def read(self, keys: Sequence[Key], *, limit: int) -> Sequence[bytes | None]:
        async def one(key: Key) -> bytes | None:
            try:
                return (await self._driver.read(key, limit=limit)).data
            except (KeyMissing, ObjectTooLarge):
                return None

        return await map_bounded(keys, one, limit=AT_ONCE)

    async def find(self, keys: Sequence[Key]) -> Sequence[Stat | None]:
        return await map_bounded(keys, self._driver.find, limit=AT_ONCE)
