"""An object store in memory, which implements `storage/object_store/interface.py` as strictly as S3.

For tests of what is built on object stores.  Listings are in order of keys with prefixes rolled up, a join refuses
sources of a length that S3 would refuse, an unfinished object is kept until it is aborted, and `before` may
hold up or fail any call: `await before(NAME, KEYS)` runs before it, `await after(NAME, KEYS)` when it is done.
"""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    Content,
    Key,
    KeyMissing,
    ObjectTooLarge,
    RangeOutside,
    SignedUrl,
    Stat,
    Stored,
    Unchanged,
    UploadChanged,
    UploadMissing,
    Version,
)
from moorage.storage.memory import MemoryReader
from moorage.storage.object_store.interface import NamePage, Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from moorage.storage.driver import Reader, When
    from moorage.storage.object_store.interface import LargeWriter

__all__ = ["Bucket", "MemoryObjects"]

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    version: Version
    modified: datetime


@dataclass
class Bucket:
    """Content that several `MemoryObjects`, one for each process, share.  `exact` False: conditions are not
    checked at the time of the write, so that racing writers may all win.
    """

    exact: bool = True
    objects: dict[str, _Object] = field(default_factory=dict)
    unfinished: dict[int, tuple[str, datetime, bytearray]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def store(self, key: str, data: bytes) -> Version:
        version = Version(f"v{next(self.numbers)}")
        self.objects[key] = _Object(data, version, datetime.now(UTC))
        return version


async def _nothing(name: str, keys: Sequence[Key]) -> None:
    del name, keys


class MemoryObjects:
    """See `interface.JoiningStore`."""

    name = "memory-objects"

    def __init__(
        self,
        bucket: Bucket,
        *,
        chunk: int = 10 << 20,
        any_length: bool = False,
        before: Callable[[str, Sequence[Key]], Awaitable[None]] = _nothing,
        after: Callable[[str, Sequence[Key]], Awaitable[None]] = _nothing,
    ) -> None:
        self.chunk = chunk
        self.removes_exactly = bucket.exact
        self.any_length = any_length
        self.resent = 0
        self._bucket = bucket
        self._before = before
        self._after = after

    @asynccontextmanager
    async def _call(self, name: str, *keys: Key) -> AsyncIterator[None]:
        await self._before(name, keys)
        await asyncio.sleep(0)
        yield
        await self._after(name, keys)

    def describe(self, key: str) -> str:
        return f"{key} in memory"

    def _object(self, key: Key) -> _Object:
        try:
            return self._bucket.objects[key]
        except KeyError:
            raise KeyMissing(key) from None

    async def get(self, key: Key, *, limit: int) -> Content:
        async with self._call("get", key):
            found = self._object(key)
            if len(found.data) > limit:
                raise ObjectTooLarge(f"{key}: more than {limit} bytes")
            return Content(found.data, found.version)

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        if not self._bucket.exact:
            self._check(key, when)
        async with self._call("put", key):
            if self._bucket.exact:
                self._check(key, when)
            return self._bucket.store(key, b"".join(data))

    def _check(self, key: Key, when: When) -> None:
        current = self._bucket.objects.get(key)
        if when is ABSENT and current is not None:
            raise Conflict(f"{key}: it exists")
        if isinstance(when, Unchanged) and (current is None or current.version != when.version):
            raise Conflict(f"{key}: it has changed")

    async def head(self, key: Key) -> Stat:
        async with self._call("head", key):
            found = self._object(key)
            return Stat(key, len(found.data), found.modified)

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        async with self._call("stream", key):
            found = self._object(key)
        if start > len(found.data):
            raise RangeOutside(f"{key}: {start} is past its {len(found.data)} bytes")
        yield MemoryReader(Stat(key, len(found.data), found.modified), found.data[start:stop])

    async def delete(self, keys: Sequence[Key]) -> None:
        async with self._call("delete", *keys):
            for key in keys:
                self._bucket.objects.pop(key, None)

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        async with self._call("delete", *(known.key for known in objects)):
            changed: list[Key] = []
            for known in objects:
                found = self._bucket.objects.get(known.key)
                if found is None:
                    continue
                if self._bucket.exact and (len(found.data), found.modified) != (known.size, known.modified):
                    changed.append(known.key)
                else:
                    del self._bucket.objects[known.key]
            return changed

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = _PAGE) -> NamePage:
        async with self._call("page", prefix):
            start = token or f"{prefix}/{after}"
            found: list[str] = []
            for key in sorted(self._bucket.objects):
                if (
                    not key.startswith(f"{prefix}/")
                    or key <= start
                    or (token.endswith("/") and key.startswith(token))
                ):
                    continue
                name, slash, _ = key[len(prefix) + 1 :].partition("/")
                if not found or found[-1] != name + slash:
                    if len(found) == limit:
                        return NamePage([entry.rstrip("/") for entry in found], f"{prefix}/{found[-1]}")
                    found.append(name + slash)
            return NamePage([entry.rstrip("/") for entry in found], "")

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        async with self._call("walk", prefix):
            found = [
                Stat(Key(key), len(item.data), item.modified)
                for key, item in sorted(self._bucket.objects.items())
                if key.startswith(f"{prefix}/")
            ]
        for start in range(0, len(found), _PAGE):
            yield found[start : start + _PAGE]

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        del scratch
        async with self._call("join", to, *(source.key for source in sources)):
            data = bytearray()
            for number, source in enumerate(sources):
                found = self._bucket.objects.get(source.key)
                if found is None:
                    raise UploadMissing(source.key)
                if found.version != source.version or len(found.data) != source.size:
                    raise UploadChanged(source.key)
                last = number == len(sources) - 1 and not tail
                # What the reference left may be longer than a chunk: it is copied in pieces.
                fits = source.size % self.chunk == 0 or (source.key.endswith("/data") and source.size > self.chunk)
                assert self.any_length or last or fits, "S3 takes no such part there"
                data += found.data
            self._bucket.store(to, bytes(data) + tail)
            return Stored.WRITTEN

    @asynccontextmanager
    async def large(self, key: Key) -> AsyncIterator[LargeWriter]:
        number = next(self._bucket.numbers)
        async with self._call("large", key):
            self._bucket.unfinished[number] = (key, datetime.now(UTC), bytearray())
        try:
            yield _Large(self._bucket, number)
        finally:
            self._bucket.unfinished.pop(number, None)

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        return SignedUrl(f"memory://{key}?{method}&{expires_s}")

    def begin_foreign(self, data: Key, content: bytes) -> None:
        """Leave an upload there as the reference would."""
        self._bucket.unfinished[next(self._bucket.numbers)] = (data, datetime.now(UTC), bytearray(content))

    async def legacy_size(self, data: Key) -> int | None:
        async with self._call("foreign", data):
            if (found := self._bucket.objects.get(data)) is not None:
                return len(found.data)
            sizes = [len(content) for key, _, content in self._bucket.unfinished.values() if key == data]
            return sizes[-1] if sizes else None

    async def adopt(self, data: Key) -> Source | None:
        async with self._call("adopt", data):
            for number, (key, _, content) in list(self._bucket.unfinished.items()):
                if key == data:
                    del self._bucket.unfinished[number]
                    if content:
                        self._bucket.store(data, bytes(content))
            found = self._bucket.objects.get(data)
            return None if found is None else Source(data, len(found.data), found.version)

    async def abort(self, data: Key) -> None:
        async with self._call("abort", data):
            for number, (key, _, _) in list(self._bucket.unfinished.items()):
                if key == data:
                    del self._bucket.unfinished[number]

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        async with self._call("unfinished"):
            old = [
                (number, key)
                for number, (key, began, _) in self._bucket.unfinished.items()
                if began < before and key.startswith(f"{under}/")
            ]
            if abort:
                for number, _ in old:
                    del self._bucket.unfinished[number]
            return [Key(key) for _, key in old]

    async def probe(self) -> None:
        """Memory is always there."""

    async def close(self) -> None:
        """Nothing to free."""


class _Large:
    def __init__(self, bucket: Bucket, number: int) -> None:
        self._bucket = bucket
        self._number = number

    async def add(self, data: Sequence[bytes]) -> None:
        self._bucket.unfinished[self._number][2].extend(b"".join(data))

    async def commit(self) -> Stored:
        key, _, data = self._bucket.unfinished.pop(self._number)
        self._bucket.store(key, bytes(data))
        return Stored.WRITTEN
