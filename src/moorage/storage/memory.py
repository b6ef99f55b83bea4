"""Objects in this process's memory: `storage: inmemory`, and the fake of the tests.

It passes the same contract as every driver.  Nothing survives the process and nothing is shared between
processes, so a server on it runs one worker.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.bulk import OneByOne
from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    READ_LIMIT_BYTES,
    Conflict,
    Content,
    Driver,
    Key,
    KeyMissing,
    ObjectTooLarge,
    RangeOutside,
    RequestCost,
    Stat,
    Stored,
    Unchanged,
    UploadBusy,
    UploadChanged,
    UploadMissing,
    UploadState,
    Version,
)
from moorage.storage.driver_defaults import adopt_by_copying, publish_in_steps, write_one_by_one
from moorage.storage.keys import check_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from moorage.storage.driver import (
        Appender,
        LocalFile,
        Note,
        Published,
        Reader,
        SignedUrl,
        When,
        Write,
        Writer,
    )

__all__ = ["MemoryDriver", "MemoryReader"]

_PIECE_BYTES: Final = 1 << 20
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class _StoredObject:
    data: bytes
    modified: datetime
    version: Version


class MemoryDriver:
    """See `driver.Driver`."""

    name = "inmemory"
    request_cost = RequestCost.LOCAL
    signs_urls = False
    lists_unfinished = False
    removes_exactly = True
    resent = 0

    def __init__(self) -> None:
        self._objects: dict[str, _StoredObject] = {}
        self._below: dict[str, dict[str, int]] = {}
        self._changes: dict[str, int] = {}
        self._instance = os.urandom(8).hex()
        self._versions = itertools.count(1)
        self.uploads = MemoryUploads(self)
        self.bulk = MemoryBulk(self)

    def put(self, key: Key, data: bytes) -> Version:
        """Store an object, for `write`, `commit` and `publish`."""
        version = Version(str(next(self._versions)))
        if key not in self._objects:
            self._count(key, 1)
        self._objects[key] = _StoredObject(data, datetime.now(UTC), version)
        return version

    def _remove(self, key: str) -> None:
        if self._objects.pop(key, None) is not None:
            self._count(key, -1)

    def _count(self, key: str, change: int) -> None:
        """Update `_below`: for a prefix the names directly below it, with their numbers of objects."""
        while key:
            key, _, name = key.rpartition("/")
            names = self._below.setdefault(key, {})
            known = name in names
            names[name] = names.get(name, 0) + change
            if names[name] == 0:
                del names[name]
            if known != (name in names):
                self._changes[key] = next(self._versions)
            if not names:
                del self._below[key]
                del self._changes[key]

    def fingerprint(self, prefix: Key) -> str:
        """Return that of `driver.Bulk.fingerprints`: another one after each change; no names are always 0."""
        check_key(prefix)
        return f"{self._instance}.{self._changes.get(prefix, 0)}"

    def _object(self, key: Key) -> _StoredObject:
        check_key(key)
        try:
            return self._objects[key]
        except KeyError:
            raise KeyMissing(key) from None

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        found = self._object(key)
        if len(found.data) > limit:
            raise ObjectTooLarge(f"{key}: {len(found.data)} bytes, at most {limit}")
        return Content(found.data, found.version)

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        check_key(key)
        current = self._objects.get(key)
        if when is ABSENT and current is not None:
            raise Conflict(f"{key}: it exists")
        if isinstance(when, Unchanged) and (current is None or current.version != when.version):
            raise Conflict(f"{key}: it has changed")
        return self.put(key, data)

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> Sequence[Version]:
        return await write_one_by_one(self, groups)

    async def publish(self, home: Key, state: UploadState, to: Key, link: Write) -> Published:
        return await publish_in_steps(self, home, state, to, link)

    async def adopt(self, key: Key, path: str) -> Stored:
        return await adopt_by_copying(self, key, path)

    async def stat(self, key: Key) -> Stat:
        found = self._object(key)
        return Stat(key, len(found.data), found.modified)

    find = Driver.find

    async def delete(self, keys: Collection[Key]) -> None:
        for key in keys:
            check_key(key)
        for key in keys:
            self._remove(key)

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        for known in objects:
            check_key(known.key)
        changed: list[Key] = []
        for known in objects:
            found = self._objects.get(known.key)
            if found is None:
                continue
            if (len(found.data), found.modified) == (known.size, known.modified):
                self._remove(known.key)
            else:
                changed.append(known.key)
        return changed

    async def clear(self, prefix: Key) -> None:
        check_key(prefix)
        for key in [key for key in self._objects if key.startswith(f"{prefix}/")]:
            self._remove(key)

    async def prune(self, prefix: Key, before: datetime) -> None:
        del before  # there are no directories
        check_key(prefix)

    @asynccontextmanager
    async def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        found = self._object(key)
        if start > len(found.data):
            raise RangeOutside(f"{key}: {start} is past its {len(found.data)} bytes")
        yield MemoryReader(Stat(key, len(found.data), found.modified), found.data[start:stop])

    async def open_file(self, key: Key) -> LocalFile | None:
        check_key(key)
        return None

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        del method, expires_s
        check_key(key)
        return None

    @asynccontextmanager
    async def create(self, key: Key) -> AsyncIterator[Writer]:
        check_key(key)
        yield MemoryWriter(self, key)

    async def children(
        self, prefix: Key, *, after: str = "", limit: int | None = None
    ) -> AsyncIterator[Sequence[str]]:
        check_key(prefix)
        if names := sorted(name for name in self._below.get(prefix, ()) if name > after)[:limit]:
            yield names

    async def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        check_key(prefix)
        found = [
            Stat(Key(key), len(item.data), item.modified)
            for key, item in self._objects.items()
            if key.startswith(f"{prefix}/")
        ]
        for start in range(0, len(found), _PAGE):
            yield found[start : start + _PAGE]

    async def probe(self) -> None:
        """Return: memory is always available."""

    async def close(self) -> None:
        """Return: there is nothing to free."""


class MemoryBulk(OneByOne):
    """See `driver.Bulk`."""

    def __init__(self, driver: MemoryDriver) -> None:
        super().__init__(driver)
        self._memory = driver

    async def fingerprints(self, prefixes: Sequence[Key]) -> Sequence[str | None]:
        return [self._memory.fingerprint(prefix) for prefix in prefixes]


class MemoryReader:
    def __init__(self, stat: Stat, data: bytes) -> None:
        self.stat = stat
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), _PIECE_BYTES):
            yield self._data[start : start + _PIECE_BYTES]


class MemoryWriter:
    def __init__(self, driver: MemoryDriver, key: Key) -> None:
        self._driver = driver
        self._key = key
        self._data = bytearray()

    async def write(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self._data += chunk

    async def commit(self) -> Stored:
        self._driver.put(self._key, bytes(self._data))
        return Stored.WRITTEN


@dataclass(slots=True)
class _MemoryUpload:
    state: UploadState
    data: bytearray = field(default_factory=bytearray)
    busy: bool = False


class MemoryUploads:
    """See `driver.Uploads`."""

    def __init__(self, driver: MemoryDriver) -> None:
        self._driver = driver
        self._uploads: dict[str, _MemoryUpload] = {}

    def _upload(self, home: Key) -> _MemoryUpload:
        check_key(home)
        try:
            return self._uploads[home]
        except KeyError:
            raise UploadMissing(home) from None

    def has(self, home: Key, upload: _MemoryUpload) -> bool:
        """Return whether `upload` was neither published nor discarded."""
        return self._uploads.get(home) is upload

    def _claim(self, home: Key, state: UploadState) -> _MemoryUpload:
        upload = self._upload(home)
        if upload.busy:
            raise UploadBusy(home)
        if upload.state.offset != state.offset:
            raise UploadChanged(f"{home}: its offset is {upload.state.offset}, not {state.offset}")
        return upload

    async def begin(self, home: Key) -> UploadState:
        check_key(home)
        self._uploads[home] = _MemoryUpload(UploadState(0, datetime.now(UTC).replace(microsecond=0)))
        return self._uploads[home].state

    async def state(self, home: Key) -> UploadState:
        return self._upload(home).state

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        upload = self._claim(home, state)
        upload.busy = True
        try:
            yield MemoryAppender(self, home, upload)
        finally:
            del upload.data[upload.state.offset :]
            upload.busy = False

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        upload = self._upload(home)
        if len(upload.data) < state.offset:
            raise UploadChanged(f"{home}: fewer than {state.offset} bytes are left")
        yield MemoryReader(Stat(home, state.offset, state.started), bytes(upload.data[: state.offset]))

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        upload = self._claim(home, state)
        check_key(to)
        self._driver.put(to, bytes(upload.data))
        del self._uploads[home]
        return Stored.WRITTEN

    async def discard(self, home: Key) -> None:
        check_key(home)
        self._uploads.pop(home, None)

    async def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        check_key(under)
        for home, upload in list(self._uploads.items()):
            if home.startswith(f"{under}/") and upload.state.started < before:
                yield Key(home)

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        check_key(under)
        del before, dry_run  # no object here is ever incomplete
        return ()


class MemoryAppender:
    def __init__(self, uploads: MemoryUploads, home: Key, upload: _MemoryUpload) -> None:
        self._uploads = uploads
        self._home = home
        self._upload = upload

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        for chunk in chunks:
            self._upload.data += chunk
        if also is not None:
            await asyncio.get_running_loop().run_in_executor(None, also, chunks)

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        if chunks:
            await self.write(chunks, also)
        upload = self._upload
        if not self._uploads.has(self._home, upload):
            raise UploadMissing(self._home)
        upload.state = UploadState(len(upload.data), upload.state.started, tuple(notes))
        return upload.state

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        return await self.checkpoint((), chunks, also)
