"""S3 as an object store: `storage/object_store/interface.py` documents each call.

Joins and multipart uploads are in `s3/multipart.py`, conditions in `s3/conditions.py`, single requests in
`s3/requests.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.driver import ALWAYS, Key, SignedUrl, Stat, StorageError
from moorage.storage.keys import is_key
from moorage.storage.object_store.helpers import probe, slices, stat_from
from moorage.storage.object_store.interface import NamePage
from moorage.storage.s3.conditions import Conditions
from moorage.storage.s3.errors import failure_of
from moorage.storage.s3.multipart import S3Multipart
from moorage.storage.s3.requests import S3Requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from moorage.storage.driver import Reader, Version, When
    from moorage.storage.s3.options import S3Options

__all__ = ["S3Store"]

_PAGE: Final = 1000


class S3Store:
    """See `interface.JoiningStore`."""

    name = "s3aws"
    any_length = False
    removes_exactly = False

    def __init__(self, options: S3Options, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.chunk = options.chunksize
        self._requests = S3Requests(options, sleep=sleep)
        self._location = self._requests.location
        self._conditions = Conditions(self._requests)
        multipart = S3Multipart(self._requests)
        self.get = self._requests.get
        self.head = self._requests.head
        self.delete = self._requests.delete
        self.describe = self._location.describe
        self.close = self._requests.connection.close
        self.join = multipart.join
        self.large = multipart.large
        self.legacy_size = multipart.legacy_size
        self.adopt = multipart.adopt
        self.abort = multipart.abort
        self.unfinished = multipart.unfinished

    @property
    def resent(self) -> int:
        return self._requests.resent

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        reader = await self._reader(key, start, stop)
        yield reader

    async def _reader(self, key: Key, start: int, stop: int | None) -> S3Reader:
        import obstore

        if stop is not None and stop <= start:
            return S3Reader(self._requests, await stat_from(self, key, start), None)
        options: Any = {}
        if start or stop is not None:
            options = {"range": {"offset": start} if stop is None else (start, stop)}
        async with self._requests.reading("GetObject", key) as stores:
            try:
                found = await obstore.get_async(stores.reading, self._location.path(key), options=options)
            except Exception as error:
                if not failure_of(error).range_outside:
                    raise
                return S3Reader(self._requests, await stat_from(self, key, start), None)
        meta = found.meta
        return S3Reader(self._requests, Stat(key, meta["size"], meta["last_modified"]), found)

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        if when is ALWAYS:
            return await self._requests.put(key, data)
        return await self._conditions.put(key, data, when)

    async def _list(self, prefix: Key, **parameters: Any) -> Any:
        """One page of ListObjectsV2 by aiobotocore."""
        page = await self._requests.call("list_objects_v2", prefix, **parameters)
        self._requests.trace("ListObjectsV2", prefix)
        return page

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = _PAGE) -> NamePage:
        whole = self._location.path(f"{prefix}/")
        more: dict[str, Any] = {}
        if token:
            more["ContinuationToken"] = token
        elif after:
            more["StartAfter"] = f"{whole}{after}"
        page = await self._list(prefix, Prefix=whole, Delimiter="/", MaxKeys=limit, **more)
        paths = [entry["Key"] for entry in page.get("Contents", ())]
        paths += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
        names = [path[len(whole) :].removesuffix("/") for path in sorted(paths)]
        return NamePage([name for name in names if name], page.get("NextContinuationToken", ""))

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        """See `Driver.remove_unchanged`.  DeleteObjects has no condition that all stores evaluate."""
        await self._requests.delete([known.key for known in objects])
        return ()

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        import obstore
        from obstore.exceptions import InvalidPathError

        async with self._requests.reading("ListObjectsV2", prefix) as stores:
            pages = obstore.list(stores.reading, self._location.path(prefix), chunk_size=_PAGE)
        last = ""
        while True:
            async with self._requests.reading("ListObjectsV2", prefix):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
                except InvalidPathError:
                    break
            last = page[-1]["path"] if page else last
            if known := self._stats((entry["path"], entry["size"], entry["last_modified"]) for entry in page):
                yield known
        # obstore fails at an object `a//b`, which no driver wrote but may exist: one odd name must not keep
        # collectors from all others.
        async for rest in self._walk_slowly(prefix, last):
            yield rest

    async def _walk_slowly(self, prefix: Key, after: str) -> AsyncIterator[Sequence[Stat]]:
        """Yield the objects after one of the bucket's names, listed by aiobotocore."""
        whole = self._location.path(f"{prefix}/")
        more = {"StartAfter": after}
        while True:
            page = await self._list(prefix, Prefix=whole, **more)
            entries = page.get("Contents", ())
            if known := self._stats((entry["Key"], entry["Size"], entry["LastModified"]) for entry in entries):
                yield known
            if not page.get("NextContinuationToken"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _stats(self, entries: Iterable[tuple[str, int, datetime]]) -> list[Stat]:
        """Return those of the listed objects whose names are keys."""
        stats = [Stat(self._location.key(path), size, modified) for path, size, modified in entries]
        return [stat for stat in stats if is_key(stat.key)]

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        import obstore

        stores = await self._requests.connection.stores()
        verb: Any = method
        expires = timedelta(seconds=expires_s)
        try:
            return SignedUrl(obstore.sign(stores.signing, verb, self._location.path(key), expires))
        except Exception as error:
            raise self._requests.failed(error, "signing", key) from error

    async def probe(self) -> None:
        await probe(self)


class S3Reader:
    """See `driver.Reader`.  obstore resumes after a broken connection where it broke."""

    def __init__(self, requests: S3Requests, stat: Stat, found: Any) -> None:
        self.stat = stat
        self._requests = requests
        self._found = found

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._found is None:
            return
        try:
            async for piece in self._found.stream(min_chunk_size=64 << 10):
                for part in slices(bytes(piece)):
                    yield part
        except (StorageError, GeneratorExit):
            raise
        except Exception as error:
            raise self._requests.failed(error, "GetObject", self.stat.key) from error
