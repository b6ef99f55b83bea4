"""Writes of small objects that are left out when this process has made the same bytes durable before.

Above: `manifests.py`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from moorage.registry.caches import BoundedCache
from moorage.storage.driver import ALWAYS, KeyMissing, ObjectTooLarge, Unchanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key, Version, When, Write

__all__ = ["LastingWrites"]


class LastingWrites:
    """Writes that are left out when the object is there already and this process has made it last.

    That an object can be read does not mean that it survives a power cut: another process may have put it there
    a moment ago and not yet have synced its directory.  What this process wrote it has synced.  So pushing an
    image again costs reads instead of fsyncs, except for the first time in each process.
    """

    def __init__(self, driver: Driver, *, remembered: int = 20_000) -> None:
        self._driver = driver
        self._versions: BoundedCache[Key, Version] = BoundedCache(remembered)

    def wrote(self, key: Key, when: When) -> bool:
        """Are the bytes that `when` names those that this process last wrote?"""
        return isinstance(when, Unchanged) and self._versions.get(key) == when.version

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> None:
        """Raises Conflict."""
        self._versions.put(key, await self._driver.write(key, data, when))

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> None:
        """Raises Conflict."""
        versions = await self._driver.write_ordered(groups)
        for write, version in zip((write for group in groups for write in group), versions, strict=True):
            self._versions.put(write.key, version)

    async def ensure(self, key: Key, data: bytes) -> None:
        """`data` is there when this returns, and lasts."""
        if self._versions.get(key) is not None:
            with suppress(KeyMissing, ObjectTooLarge):
                found = await self._driver.read(key)
                if found.data == data and self.wrote(key, Unchanged(found.version)):
                    return
        await self.write(key, data)
