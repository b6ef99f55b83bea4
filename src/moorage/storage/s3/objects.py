"""S3 as a store of objects: `storage/object_store/interface.py` says what each call promises.

Which calls go to which library is told in `s3/connection.py`; joins and multipart uploads are in
`s3/multipart.py`, conditions in `s3/conditions.py`.

Storage classes: the configured one is for what is kept; chunks and states of uploads, which live for seconds and
would be billed for a month, stay in the standard class, except in buckets that know no other.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.storage.driver import (
    ALWAYS,
    Conflict,
    Content,
    Key,
    KeyMissing,
    ObjectTooLarge,
    SignedUrl,
    Stat,
    StorageError,
    Version,
)
from moorage.storage.keys import is_key
from moorage.storage.object_store.helpers import look_for_nothing, require_start, version_if_holding
from moorage.storage.object_store.interface import NamePage
from moorage.storage.s3.conditions import Conditions
from moorage.storage.s3.connection import S3Connection
from moorage.storage.s3.errors import Failure, Unsupported, failure_of
from moorage.storage.s3.multipart import S3Multipart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from obstore import PutMode

    from moorage.storage.driver import Reader, Stored, When
    from moorage.storage.object_store.interface import Foreign, LargeWriter, Source
    from moorage.storage.s3.connection import Stores
    from moorage.storage.s3.options import S3Options

__all__ = ["S3Objects"]

_PAGE: Final = 1000
_PIECE_BYTES: Final = 1 << 20
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_AT_ONCE: Final = 8
_RANGE_NOT_SATISFIABLE: Final = 416
_NO_BULK: Final = {"MissingContentMD5", "InvalidRequest", "InvalidDigest", "BadDigest", "MalformedXML"}
"""What stores say that want other checksums than obstore sends (MD5, SHA-256), or do not know DeleteObjects."""
_log: Final = structlog.get_logger("moorage.storage.s3")


class S3Objects:
    """See `objects.Objects`."""

    name = "s3aws"
    any_length = False

    def __init__(self, options: S3Options, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.options, self.chunk = options, options.chunk
        self.connection = S3Connection(options)
        self._prefix = options.prefix
        self._sleep = sleep
        self._bulk = True
        self._conditions = Conditions(self)
        self._multipart = S3Multipart(self)

    def path(self, key: str) -> str:
        """The bucket's name for a key."""
        return f"{self._prefix}{key}"

    def _key(self, path: str) -> Key:
        return Key(path[len(self._prefix) :])

    def describe(self, key: str) -> str:
        return f"{self.path(key)} at {self.connection.place}"

    def failed(self, error: Exception, operation: str, key: str) -> StorageError:
        """What a driver raises for a failure that is not an object's absence."""
        return self._told(failure_of(error), operation, key)

    def _told(self, failure: Failure, operation: str, key: str) -> StorageError:
        return self.connection.place.error(failure, operation, self.path(key))

    def _trace(self, operation: str, key: str, outcome: str = "done") -> None:
        if self.options.log_requests:
            _log.info("request to the store", operation=operation, key=self.path(key), outcome=outcome)

    @asynccontextmanager
    async def _asking(self, operation: str, key: str) -> AsyncIterator[Stores]:
        """Requests of obstore that read: their errors become the driver's."""
        try:
            yield await self.connection.stores()
        except StorageError:
            raise
        except Exception as error:
            failure = failure_of(error)
            self._trace(operation, key, failure.code or str(failure.status))
            if failure.missing:
                raise KeyMissing(key) from error
            raise self._told(failure, operation, key) from error
        self._trace(operation, key)

    async def get(self, key: Key, *, limit: int) -> Content:
        import obstore

        async with self._asking("GetObject", key) as stores:
            found = await obstore.get_async(stores.reading, self.path(key))
            if found.meta["size"] > limit:
                raise ObjectTooLarge(f"{key}: {found.meta['size']} bytes, at most {limit}")
            data = bytes(await found.bytes_async())
        return Content(data, Version(found.meta["e_tag"] or ""))

    async def head(self, key: Key) -> Stat:
        return (await self.versioned(key))[0]

    async def versioned(self, key: Key) -> tuple[Stat, Version]:
        """`head`, and which state of the object it is."""
        import obstore

        async with self._asking("HeadObject", key) as stores:
            found = await obstore.head_async(stores.reading, self.path(key))
        return Stat(key, found["size"], found["last_modified"]), Version(found["e_tag"] or "")

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        reader = await self._reader(key, start, stop)
        yield reader

    async def _reader(self, key: Key, start: int, stop: int | None) -> S3Reader:
        import obstore

        if stop is not None and stop <= start:
            return S3Reader(self, await self._within(key, start), None)
        options: Any = {}
        if start or stop is not None:
            options = {"range": {"offset": start} if stop is None else (start, stop)}
        async with self._asking("GetObject", key) as stores:
            try:
                found = await obstore.get_async(stores.reading, self.path(key), options=options)
            except Exception as error:
                if failure_of(error).status != _RANGE_NOT_SATISFIABLE:
                    raise
                return S3Reader(self, await self._within(key, start), None)
        meta = found.meta
        return S3Reader(self, Stat(key, meta["size"], meta["last_modified"]), found)

    async def _within(self, key: Key, start: int) -> Stat:
        """Of an object in which nothing is to be read.  Raises RangeOutside."""
        stat = await self.head(key)
        require_start(key, start, stat.size)
        return stat

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        if when is ALWAYS:
            return await self.put_once(key, data)
        return await self._conditions.put(key, data, when)

    async def put_once(self, key: Key, data: Sequence[bytes], mode: PutMode = "overwrite") -> Version:
        """PutObject, until it is known how it ended.  Raises Conflict when the store refuses `mode`."""
        import obstore

        doubtful = False
        attributes: Any = {"Content-Type": "application/octet-stream", **self._class_of(key)}
        for attempt in range(1, self.options.attempts + 1):
            stores = await self.connection.stores()
            try:
                done = await obstore.put_async(
                    stores.writing, self.path(key), data, attributes=attributes, mode=mode, use_multipart=False
                )
            except Exception as error:
                failure = failure_of(error)
                self._trace("PutObject", key, failure.code or str(failure.status))
                if mode != "overwrite" and (failure.refused or failure.missing):
                    if doubtful and (version := await version_if_holding(self, key, data)) is not None:
                        return version  # an attempt whose answer was lost has done it
                    raise Conflict(f"{key}: {failure.code}") from error
                if mode != "overwrite" and failure.unsupported:
                    raise Unsupported(f"{key}: {failure.code}") from error
                if not failure.transient or attempt == self.options.attempts:
                    raise self._told(failure, "PutObject", key) from error
                doubtful = True
                await self._pause(attempt)
            else:
                self._trace("PutObject", key)
                return Version(done["e_tag"] or "")
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _pause(self, attempt: int) -> None:
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
        await self._sleep(random.uniform(longest / 2, longest))  # noqa: S311  no secret

    def _class_of(self, key: str) -> dict[str, str]:
        kind = self.storage_class(key)
        return {"Storage-Class": kind} if kind else {}

    def storage_class(self, key: str) -> str:
        """Of the object to be; empty for the bucket's own."""
        kind = self.options.storage_class
        if "/_uploads/" in key and kind not in {"OUTPOSTS", "EXPRESS_ONEZONE"}:
            return ""
        return kind

    async def delete(self, keys: Sequence[Key]) -> None:
        for start in range(0, len(keys), _PAGE):
            await self._delete([self.path(key) for key in keys[start : start + _PAGE]], keys[start])

    async def _delete(self, paths: list[str], first: str) -> None:
        import obstore

        stores = await self.connection.stores()
        try:
            if self._bulk and len(paths) > 1:
                try:
                    await obstore.delete_async(stores.reading, paths)
                except Exception as error:
                    failure = failure_of(error)
                    if not (failure.unsupported or failure.code in _NO_BULK):
                        raise
                    self._bulk = False
                    _log.warning("the store deletes no objects together; each costs a request", said=failure.code)
                else:
                    self._trace("DeleteObjects", first)
                    return
            for start in range(0, len(paths), _AT_ONCE):
                part = paths[start : start + _AT_ONCE]
                deleting = (obstore.delete_async(stores.deleting, path) for path in part)
                for result in await asyncio.gather(*deleting, return_exceptions=True):
                    if isinstance(result, BaseException) and not failure_of(result).missing:
                        raise result
            self._trace("DeleteObject", first)
        except Exception as error:
            raise self._told(failure_of(error), "DeleteObjects", first) from error

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = _PAGE) -> NamePage:
        whole = self.path(f"{prefix}/")
        wanted: dict[str, Any] = {"Prefix": whole, "Delimiter": "/", "MaxKeys": limit}
        if token:
            wanted["ContinuationToken"] = token
        elif after:
            wanted["StartAfter"] = f"{whole}{after}"
        said = await self._multipart.call("list_objects_v2", prefix, **wanted)
        self._trace("ListObjectsV2", prefix)
        found = [entry["Key"] for entry in said.get("Contents", ())]
        found += [entry["Prefix"] for entry in said.get("CommonPrefixes", ())]
        names = [path[len(whole) :].removesuffix("/") for path in sorted(found)]
        return NamePage([name for name in names if name], said.get("NextContinuationToken", ""))

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        import obstore
        from obstore.exceptions import InvalidPathError

        async with self._asking("ListObjectsV2", prefix) as stores:
            pages = obstore.list(stores.reading, self.path(prefix), chunk_size=_PAGE)
        last = ""
        while True:
            async with self._asking("ListObjectsV2", prefix):
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
                except InvalidPathError:
                    break
            last = page[-1]["path"] if page else last
            found = [Stat(self._key(entry["path"]), entry["size"], entry["last_modified"]) for entry in page]
            if ours := [stat for stat in found if is_key(stat.key)]:
                yield ours
        # obstore gives up at an object `a//b`, which is not ours but may be there: one odd name must not keep
        # collectors from all others.
        async for rest in self._walk_slowly(prefix, last):
            yield rest

    async def _walk_slowly(self, prefix: Key, after: str) -> AsyncIterator[Sequence[Stat]]:
        """The objects after one of the bucket's names, by aiobotocore."""
        wanted: dict[str, Any] = {"Prefix": self.path(f"{prefix}/"), "StartAfter": after}
        while True:
            said = await self._multipart.call("list_objects_v2", prefix, **wanted)
            self._trace("ListObjectsV2", prefix)
            found = [
                Stat(self._key(entry["Key"]), entry["Size"], entry["LastModified"])
                for entry in said.get("Contents", ())
            ]
            if ours := [stat for stat in found if is_key(stat.key)]:
                yield ours
            if not said.get("NextContinuationToken"):
                return
            wanted = {"Prefix": wanted["Prefix"], "ContinuationToken": said["NextContinuationToken"]}

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        return await self._multipart.join(to, sources, tail, scratch)

    def large(self, key: Key) -> AbstractAsyncContextManager[LargeWriter]:
        return self._multipart.large(key, self.storage_class(key))

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        import obstore

        stores = await self.connection.stores()
        wanted: Any = method
        try:
            return SignedUrl(obstore.sign(stores.signing, wanted, self.path(key), timedelta(seconds=expires_s)))
        except Exception as error:
            raise self.failed(error, "signing", key) from error

    async def foreign(self, data: Key) -> Foreign | None:
        return await self._multipart.foreign(data)

    async def adopt(self, data: Key) -> Source | None:
        return await self._multipart.adopt(data)

    async def abort(self, data: Key) -> None:
        await self._multipart.abort(data)

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        return [self._key(path) for path in await self._multipart.unfinished(under, before, abort=abort)]

    async def probe(self) -> None:
        await look_for_nothing(self)

    async def close(self) -> None:
        await self.connection.close()


class S3Reader:
    """See `driver.Reader`.  A connection that breaks is taken up again by obstore where it broke."""

    def __init__(self, objects: S3Objects, stat: Stat, found: Any) -> None:
        self.stat, self._objects, self._found = stat, objects, found

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._found is None:
            return
        try:
            async for piece in self._found.stream(min_chunk_size=64 << 10):
                whole = bytes(piece)
                if len(whole) <= _PIECE_BYTES:
                    yield whole
                    continue
                for start in range(0, len(whole), _PIECE_BYTES):
                    yield whole[start : start + _PIECE_BYTES]
        except (StorageError, GeneratorExit):
            raise
        except Exception as error:
            raise self._objects.failed(error, "GetObject", self.stat.key) from error
