"""A driver that reports each call to another one, and can stop it: for crashes and for interleavings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.storage.bulk import OneByOne
from moorage.storage.driver import ALWAYS, READ_LIMIT_BYTES, Driver, RequestCost
from moorage.storage.driver_defaults import adopt_by_copying, publish_in_steps, write_one_by_one

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from moorage.storage.driver import (
        Bulk,
        Content,
        Key,
        LocalFile,
        Published,
        Reader,
        SignedUrl,
        Stat,
        Stored,
        Uploads,
        UploadState,
        Version,
        When,
        Write,
        Writer,
    )

__all__ = ["InstrumentedDriver"]


class InstrumentedDriver:
    """See `driver.Driver`.  A subclass may wait or raise in `before` and `after_change`; `changes` are kept."""

    name = "watched"
    request_cost = RequestCost.LOCAL
    signs_urls = False
    lists_unfinished = False
    removes_exactly = True

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.changes: list[str] = []

    async def before(self, call: str) -> None:
        """Override to wait or to raise."""

    async def after_change(self, call: str) -> None:
        """Override to wait or to raise."""

    @property
    def resent(self) -> int:
        return self._driver.resent

    @property
    def uploads(self) -> Uploads:
        return self._driver.uploads

    @property
    def bulk(self) -> Bulk:
        return OneByOne(self)

    async def _change(self, call: str) -> None:
        await self.before(call)
        self.changes.append(call)

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        await self.before(f"read {key}")
        return await self._driver.read(key, limit=limit)

    async def stat(self, key: Key) -> Stat:
        await self.before(f"stat {key}")
        return await self._driver.stat(key)

    find = Driver.find

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        await self._change(f"write {key}")
        version = await self._driver.write(key, data, when)
        await self.after_change(f"write {key}")
        return version

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> Sequence[Version]:
        return await write_one_by_one(self, groups)

    async def publish(self, home: Key, state: UploadState, to: Key, link: Write) -> Published:
        return await publish_in_steps(self, home, state, to, link)

    async def adopt(self, key: Key, path: str) -> Stored:
        return await adopt_by_copying(self, key, path)

    async def delete(self, keys: Collection[Key]) -> None:
        await self._change(f"delete {' '.join(keys)}")
        await self._driver.delete(keys)
        await self.after_change(f"delete {' '.join(keys)}")

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        call = f"remove {' '.join(known.key for known in objects)}"
        await self._change(call)
        changed = await self._driver.remove_unchanged(objects)
        await self.after_change(call)
        return changed

    async def clear(self, prefix: Key) -> None:
        await self._change(f"clear {prefix}")
        await self._driver.clear(prefix)
        await self.after_change(f"clear {prefix}")

    async def prune(self, prefix: Key, before: datetime) -> None:
        await self._change(f"prune {prefix}")
        await self._driver.prune(prefix, before)
        await self.after_change(f"prune {prefix}")

    def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        return self._driver.open(key, start=start, stop=stop)

    async def open_file(self, key: Key) -> LocalFile | None:
        return await self._driver.open_file(key)

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        return await self._driver.handover(key, method=method, expires_s=expires_s)

    def create(self, key: Key) -> AbstractAsyncContextManager[Writer]:
        return self._driver.create(key)

    async def children(
        self, prefix: Key, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        await self.before(f"children {prefix}")
        async for names in self._driver.children(prefix, after=after, limit=limit):
            yield names

    def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        return self._driver.scan(prefix)

    async def probe(self) -> None:
        await self._driver.probe()

    async def close(self) -> None:
        await self._driver.close()
