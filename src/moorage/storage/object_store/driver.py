"""Driver of every object store: `driver.Driver`, made of the operations of `interface.py`.

A store without append (S3, Google) has its uploads in a `ChunkLog`; one with it (Azure) has uploads of its own.

`read` and `open` are one request each, `handover` is none.  A cancelled write waits for the store's response
(`shielding.py`).

Beside: `chunk_log.py`, `listing.py`.  Below: `s3/store.py`, `gcs/store.py`, `azure/store.py`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from moorage.shielding import run_to_completion
from moorage.storage.bulk import OneByOne
from moorage.storage.driver import ALWAYS, READ_LIMIT_BYTES, Driver, RequestCost, Stored
from moorage.storage.driver_defaults import adopt_by_copying, publish_in_steps, write_one_by_one
from moorage.storage.keys import check_key
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.listing import names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from moorage.storage.driver import (
        Content,
        Key,
        LocalFile,
        Published,
        Reader,
        SignedUrl,
        Stat,
        Uploads,
        UploadState,
        Version,
        When,
        Write,
        Writer,
    )
    from moorage.storage.object_store.interface import JoiningStore, LargeWriter, ObjectStore

__all__ = ["ObjectDriver"]


class ObjectDriver:
    """See `driver.Driver`."""

    request_cost = RequestCost.NETWORK
    signs_urls = True
    lists_unfinished = True

    def __init__(self, store: ObjectStore, uploads: Uploads) -> None:
        self.name = store.name
        self.removes_exactly = store.removes_exactly
        self.uploads = uploads
        self.bulk = OneByOne(self)
        self._store = store

    @classmethod
    def with_chunk_log(cls, store: JoiningStore) -> ObjectDriver:
        """Return the driver of a store without uploads of its own: they are logs of chunks."""
        return cls(store, ChunkLog(store))

    @property
    def resent(self) -> int:
        return self._store.resent

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        check_key(key)
        return await self._store.get(key, limit=limit)

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        check_key(key)
        return await run_to_completion(self._store.put(key, [data], when))

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> Sequence[Version]:
        return await write_one_by_one(self, groups)

    async def publish(self, home: Key, state: UploadState, to: Key, link: Write) -> Published:
        return await publish_in_steps(self, home, state, to, link)

    async def adopt(self, key: Key, path: str) -> Stored:
        return await adopt_by_copying(self, key, path)

    async def stat(self, key: Key) -> Stat:
        check_key(key)
        return await self._store.head(key)

    find = Driver.find

    async def delete(self, keys: Collection[Key]) -> None:
        for key in keys:
            check_key(key)
        if keys:
            await run_to_completion(self._store.delete(list(keys)))

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        for known in objects:
            check_key(known.key)
        return await run_to_completion(self._store.remove_unchanged(objects)) if objects else ()

    async def clear(self, prefix: Key) -> None:
        check_key(prefix)
        await run_to_completion(self._clear(prefix))

    async def _clear(self, prefix: Key) -> None:
        async for page in self._store.walk(prefix):
            await self._store.delete([stat.key for stat in page])

    async def prune(self, prefix: Key, before: datetime) -> None:
        del before  # there are no directories; what crashes leave is `uploads.sweep`'s
        check_key(prefix)

    def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        return self._open(key, start, stop)

    @asynccontextmanager
    async def _open(self, key: Key, start: int, stop: int | None) -> AsyncIterator[Reader]:
        check_key(key)
        async with self._store.stream(key, start=start, stop=stop) as reader:
            yield reader

    async def open_file(self, key: Key) -> LocalFile | None:
        check_key(key)
        return None

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        check_key(key)
        return await self._store.sign(key, method=method, expires_s=expires_s)

    @asynccontextmanager
    async def create(self, key: Key) -> AsyncIterator[Writer]:
        check_key(key)
        writer = ObjectWriter(self._store, key)
        try:
            yield writer
        finally:
            await run_to_completion(writer.leave())

    async def children(
        self, prefix: Key, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        check_key(prefix)
        async for page in names(self._store, prefix, after=after, limit=limit):
            yield page

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        check_key(prefix)
        async for page in self._store.walk(prefix):
            if page:
                yield page

    async def probe(self) -> None:
        await self._store.probe()

    async def close(self) -> None:
        await self._store.close()


class ObjectWriter:
    """See `driver.Writer`.  Up to one chunk is a single request; more is written piece by piece to the key."""

    def __init__(self, store: ObjectStore, key: Key) -> None:
        self._store = store
        self._key = key
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._context: AbstractAsyncContextManager[LargeWriter] | None = None
        self._large: LargeWriter | None = None

    async def write(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            rest = chunk
            while rest:
                if self._buffered == self._store.chunk:
                    await self._send()
                room = self._store.chunk - self._buffered
                piece = rest if len(rest) <= room else rest[:room]
                self._buffer.append(piece)
                self._buffered += len(piece)
                rest = rest[room:]

    async def _send(self) -> None:
        if self._large is None:
            self._context = self._store.large(self._key)
            self._large = await self._context.__aenter__()
        data, self._buffer, self._buffered = self._buffer, [], 0
        await run_to_completion(self._large.add(data))

    async def commit(self) -> Stored:
        if self._large is None:
            await run_to_completion(self._store.put(self._key, self._buffer))
            return Stored.WRITTEN
        if self._buffered:
            await self._send()
        return await run_to_completion(self._large.commit())

    async def leave(self) -> None:
        if self._context is not None:
            await self._context.__aexit__(None, None, None)
