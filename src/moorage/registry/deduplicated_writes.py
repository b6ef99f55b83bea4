"""Write deduplication: skips the write of a small object whose same bytes this process has made durable before.

Above: `blob_store.py`, `links.py`, `tags.py`, `manifests.py`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from moorage.caches import LRUCache
from moorage.storage.driver import ALWAYS, KeyMissing, ObjectTooLarge, Unchanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver, Key, Version, When, Write

__all__ = ["DeduplicatedWrites"]


class DeduplicatedWrites:
    """Skips a write if the object exists unchanged and this process has written it durably.

    A readable object is not necessarily durable: another process may have written it just now, and not have synced
    its directory yet.  The writes of this process are synced.  So pushing an image again costs reads instead of
    fsyncs, except for the first time in each process.
    """

    def __init__(self, driver: Driver, *, remembered: int = 20_000) -> None:
        self._driver = driver
        self._versions: LRUCache[Key, Version] = LRUCache(remembered)

    def wrote(self, key: Key, when: When) -> bool:
        """Return whether `when` is the version that this process last wrote to `key`."""
        return isinstance(when, Unchanged) and self._versions.get(key) == when.version

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> None:
        """Write an object and remember its version.  Raises Conflict."""
        self._versions.put(key, await self._driver.write(key, data, when))

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> None:
        """Write groups in order, as `Driver.write_ordered`, and remember the versions.  Raises Conflict."""
        versions = await self._driver.write_ordered(groups)
        for write, version in zip((write for group in groups for write in group), versions, strict=True):
            self._versions.put(write.key, version)

    async def ensure(self, key: Key, data: bytes) -> None:
        """Make sure that the object has `data`, durably; write it only if needed."""
        if self._versions.get(key) is not None:
            with suppress(KeyMissing, ObjectTooLarge):
                found = await self._driver.read(key)
                if found.data == data and self.wrote(key, Unchanged(found.version)):
                    return
        self._versions.put(key, await self._driver.write(key, data))
