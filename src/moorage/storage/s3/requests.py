"""Requests to S3 for single objects, with errors and retries.

    conditions.py  multipart.py  store.py
              └─────────┼─────────┘
                   requests.py  ──►  connection.py

Reads, writes and deletions go through obstore, everything else (`call`) through aiobotocore; `connection.py` has
the reasons.  Writes are retried here, since the result of a conditional write depends on whether an earlier
attempt was carried out, and deletions, since `resent` counts them; all other requests are retried by the
libraries.

Storage classes: the configured one is for what is kept; chunks and states of uploads, which exist for seconds and
would be billed for a month, stay in the standard class, except in buckets that have no other.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.storage.driver import (
    Content,
    Key,
    KeyMissing,
    ObjectTooLarge,
    Stat,
    StorageError,
    UploadChanged,
    Version,
)
from moorage.storage.object_store.errors import RequestFailed
from moorage.storage.object_store.helpers import refused_put
from moorage.storage.object_store.retry import RetryPolicy
from moorage.storage.s3.connection import S3Connection
from moorage.storage.s3.errors import RequestUnsupported, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from obstore import PutMode
    from obstore.store import S3Store

    from moorage.storage.s3.connection import Stores
    from moorage.storage.s3.options import S3Options

__all__ = ["NoSuchUpload", "S3Requests"]

_PAGE: Final = 1000
_AT_ONCE: Final = 8
_MOVING: Final = {"copy_object", "upload_part", "upload_part_copy"}
_CALL_LIMIT_S: Final = 900.0
"""CompleteMultipartUpload of thousands of parts and copies of gigabytes take minutes; nothing takes longer."""
_NO_BULK: Final = {"MissingContentMD5", "InvalidRequest", "InvalidDigest", "BadDigest", "MalformedXML"}
"""Error codes of stores that require other checksums than obstore sends (MD5, SHA-256), or lack DeleteObjects."""
_log: Final = structlog.get_logger("moorage.storage.s3")


class NoSuchUpload(StorageError):
    """The multipart upload was completed, aborted, or never begun."""


class S3Requests:
    """Requests of one store in one process."""

    def __init__(self, options: S3Options, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.options = options
        self.connection = S3Connection(options)
        self.location = self.connection.location
        self.path = self.location.path
        self._retry = RetryPolicy(failure_of, options.attempts, sleep=sleep)
        self._bulk = True

    @property
    def resent(self) -> int:
        """As `Driver.resent`: deletions and PutObject."""
        return self._retry.resent

    def failed(self, error: Exception, operation: str, key: str) -> StorageError:
        """Return the driver's error for a failure other than an object's absence."""
        return self.location.error(failure_of(error), operation, key)

    def trace(self, operation: str, key: str, outcome: str = "done") -> None:
        """Log the request, if `storage.s3.loglevel` asks for it."""
        if self.options.log_requests:
            _log.info("request to the store", operation=operation, key=self.path(key), outcome=outcome)

    @asynccontextmanager
    async def reading(self, operation: str, key: str) -> AsyncIterator[Stores]:
        """Context of requests of obstore that read: their errors become the driver's.  Raises KeyMissing."""
        try:
            yield await self.connection.stores()
        except StorageError:
            raise
        except Exception as error:
            failure = failure_of(error)
            self.trace(operation, key, failure.outcome)
            if failure.missing:
                raise KeyMissing(key) from error
            raise self.location.error(failure, operation, key) from error
        self.trace(operation, key)

    async def call(self, operation: str, key: str, **parameters: Any) -> Any:
        """Make one request of aiobotocore.  Raises KeyMissing, NoSuchUpload, RequestUnsupported, UploadChanged."""
        client = await self.connection.client()
        # Copies of gigabytes must not keep a list of tags waiting.
        turns = self.connection.moving if operation in _MOVING else self.connection.asking
        try:
            async with turns, asyncio.timeout(_CALL_LIMIT_S):
                return await getattr(client, operation)(Bucket=self.options.bucket, **parameters)
        except Exception as error:
            failure = failure_of(error)
            if failure.missing:
                raise KeyMissing(key) from error
            if failure.code == "NoSuchUpload":
                raise NoSuchUpload(key) from error
            if failure.unsupported:
                raise RequestUnsupported(f"{operation} {key}: {failure.outcome}") from error
            if failure.refused:
                raise UploadChanged(f"{key}: it is no longer what was written there") from error
            raise self.location.error(failure, operation, key) from error

    async def get(self, key: Key, *, limit: int) -> Content:
        """GetObject of a small object.  Raises KeyMissing, ObjectTooLarge."""
        import obstore

        async with self.reading("GetObject", key) as stores:
            found = await obstore.get_async(stores.reading, self.path(key))
            if found.meta["size"] > limit:
                raise ObjectTooLarge(f"{key}: {found.meta['size']} bytes, at most {limit}")
            data = bytes(await found.bytes_async())
        return Content(data, Version(found.meta["e_tag"] or ""))

    async def head(self, key: Key) -> Stat:
        """HeadObject.  Raises KeyMissing."""
        return (await self.versioned(key))[0]

    async def versioned(self, key: Key) -> tuple[Stat, Version]:
        """HeadObject: size, time and ETag.  Raises KeyMissing."""
        import obstore

        async with self.reading("HeadObject", key) as stores:
            found = await obstore.head_async(stores.reading, self.path(key))
        return Stat(key, found["size"], found["last_modified"]), Version(found["e_tag"] or "")

    async def put(self, key: Key, data: Sequence[bytes], mode: PutMode = "overwrite") -> Version:
        """PutObject, on the condition that `mode` names.  Raises Conflict, RequestUnsupported."""

        async def request() -> Version:
            import obstore

            stores = await self.connection.stores()
            try:
                done = await obstore.put_async(
                    stores.writing, self.path(key), data, attributes=attributes, mode=mode, use_multipart=False
                )
            except Exception as error:
                self.trace("PutObject", key, failure_of(error).outcome)
                raise
            self.trace("PutObject", key)
            return Version(done["e_tag"] or "")

        kind = self.storage_class(key)
        attributes: Any = {"Content-Type": "application/octet-stream"}
        if kind:
            attributes["Storage-Class"] = kind
        try:
            return await self._retry.run(request)
        except RequestFailed as error:
            failure = error.failure
            if mode != "overwrite" and (failure.refused or failure.missing):
                return await refused_put(self, key, data, error)
            if mode != "overwrite" and failure.unsupported:
                raise RequestUnsupported(f"{key}: {failure.code}") from error
            raise self.location.error(failure, "PutObject", key) from error

    def storage_class(self, key: str) -> str:
        """Return the storage class of an object to be written; "" is the bucket's default."""
        kind = self.options.storageclass
        if "/_uploads/" in key and kind not in {"OUTPOSTS", "EXPRESS_ONEZONE"}:
            return ""
        return kind

    async def delete(self, keys: Sequence[Key]) -> None:
        """DeleteObjects, or DeleteObject for each key where the store lacks it; missing objects are fine."""
        for start in range(0, len(keys), _PAGE):
            await self._delete([self.path(key) for key in keys[start : start + _PAGE]], keys[start])

    async def _delete(self, paths: list[str], first: str) -> None:
        stores = await self.connection.stores()
        try:
            if self._bulk and len(paths) > 1:
                try:
                    await self._remove(stores.deleting, paths)
                except RequestFailed as error:
                    failure = error.failure
                    if not (failure.unsupported or failure.code in _NO_BULK):
                        raise
                    self._bulk = False
                    _log.warning("the store deletes no objects together; each costs a request", code=failure.code)
                else:
                    self.trace("DeleteObjects", first)
                    return
            for start in range(0, len(paths), _AT_ONCE):
                part = paths[start : start + _AT_ONCE]
                deleting = (self._remove(stores.deleting_one, [path]) for path in part)
                for result in await asyncio.gather(*deleting, return_exceptions=True):
                    if isinstance(result, RequestFailed) and result.failure.missing:
                        continue
                    if isinstance(result, BaseException):
                        raise result
            self.trace("DeleteObject", first)
        except RequestFailed as error:
            raise self.location.error(error.failure, "DeleteObjects", first) from error

    async def _remove(self, store: S3Store, paths: list[str]) -> None:
        """Send a deletion, and again after a transient failure.  Raises RequestFailed."""
        import obstore

        async def request() -> None:
            try:
                await obstore.delete_async(store, paths)
            except Exception as error:
                failure = failure_of(error)
                if failure.code in _NO_BULK:
                    raise RequestFailed(failure) from error
                raise

        await self._retry.run(request)
