"""Requests to Azure Blob Storage for the blobs below one prefix, with the driver's errors and retries.

    store.py  uploads.py ──► appender.py ──► blocks.py ──► requests.py ──► connection.py

A copy that is in progress, or failed, leaves an empty blob with a header that reports it: it counts as missing
everywhere but in listings.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorage.storage.azure.errors import failure_of, is_other_type
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
    StorageUnavailable,
    Unchanged,
    Version,
)
from moorage.storage.keys import is_key
from moorage.storage.object_store.errors import RequestFailed
from moorage.storage.object_store.helpers import check_start, delete_each, slices
from moorage.storage.object_store.interface import NamePage
from moorage.storage.object_store.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from azure.storage.blob.aio import BlobClient, ContainerClient

    from moorage.storage.azure.connection import AzureConnection
    from moorage.storage.driver import Reader, When

__all__ = ["AzureRequests", "BlobProperties", "Replaced", "conditions"]

_T = TypeVar("_T")
_ANY: Final = Version("")

_PAGE: Final = 1000
_GET_BYTES: Final = 4 << 20
_UNFINISHED: Final = {"pending", "failed", "aborted"}


class Replaced(StorageUnavailable):
    """The blob was replaced while it was read."""


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """Properties of a blob.  `copying` is "" unless a copy to it is pending or failed."""

    size: int
    modified: datetime
    version: Version
    metadata: dict[str, str]
    copying: str
    copied: str


class AzureRequests:
    """Requests below one prefix of the container, in one process."""

    def __init__(
        self,
        connection: AzureConnection,
        prefix: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.connection = connection
        self.options = connection.options
        self.location = replace(connection.location, prefix=prefix)
        self.path = self.location.path
        self.describe = self.location.describe
        self.retry = RetryPolicy(failure_of, self.options.attempts, delay_s=self._delay_s, sleep=sleep)

    def _delay_s(self, failures: int) -> float:
        return self.options.retry_delay * failures

    async def call(self, operation: str, key: str, work: Callable[[BlobClient], Awaitable[_T]]) -> _T:
        """Make a request for one blob.

        Raises KeyMissing and RangeOutside; RequestFailed if a condition did not hold or the blob is of another
        type, which an earlier attempt of this call may have caused: aiohttp repeats requests without a response,
        too.
        """

        async def request() -> _T:
            async with self.connection.blob(self.path(key)) as blob:
                return await work(blob)

        return await self._retried(operation, key, request)

    async def call_container(
        self, operation: str, key: str, work: Callable[[ContainerClient], Awaitable[_T]]
    ) -> _T:
        """Make a request for the container."""

        async def request() -> _T:
            async with self.connection.container() as container:
                return await work(container)

        return await self._retried(operation, key, request)

    async def _retried(self, operation: str, key: str, request: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await self.retry.run(request)
        except RequestFailed as error:
            failure = error.failure
            if failure.missing:
                raise KeyMissing(key) from error
            if failure.range_outside:
                raise RangeOutside(f"{key}: past its end") from error
            if failure.refused or is_other_type(failure):
                raise
            raise self.location.error(failure, operation, key) from error

    async def get(self, key: Key, *, limit: int) -> Content:
        data, found = await self._get(key, 0, limit + 1, _ANY)
        if found.size > limit:
            raise ObjectTooLarge(f"{key}: {found.size} bytes, at most {limit}")
        while len(data) < found.size:
            data += (await self._get(key, len(data), found.size - len(data), found.version))[0]
        return Content(data, found.version)

    async def _get(self, key: Key, start: int, length: int, version: Version) -> tuple[bytes, BlobProperties]:
        """Read at most 4 MiB from `start` on, of `version` unless it is "".  Raises RangeOutside."""
        length = min(length, _GET_BYTES)
        same = conditions(Unchanged(version)) if version else {}

        async def work(blob: BlobClient) -> tuple[bytes, BlobProperties]:
            download = await blob.download_blob(offset=start, length=length, **same)
            found = _properties(download.properties, total=_total(download.properties.content_range))
            return bytes(await download.readall()), found

        try:
            data, found = await self.call("Get Blob", key, work)
        except RangeOutside:
            data, found = b"", await self.properties(key)  # an empty blob has no range that is not past its end
        except RequestFailed as error:
            raise Replaced(f"{self.describe(key)}: it was replaced while it was read") from error
        if found.copying:
            raise KeyMissing(key)
        check_start(key, start, found.size)
        if len(data) < min(length, found.size - start):
            raise StorageUnavailable(f"{self.describe(key)}: {len(data)} bytes came of {length}")
        return data, found

    async def properties(self, key: Key) -> BlobProperties:
        """Return the properties, also of an unfinished copy.  Raises KeyMissing."""

        async def work(blob: BlobClient) -> BlobProperties:
            return _properties(await blob.get_blob_properties())

        return await self.call("Get Blob Properties", key, work)

    async def whole(self, key: Key) -> BlobProperties:
        """Return the properties of a blob that is whole.  Raises KeyMissing, also for an unfinished copy."""
        found = await self.properties(key)
        if found.copying:
            raise KeyMissing(key)
        return found

    async def head(self, key: Key) -> Stat:
        found = await self.whole(key)
        return Stat(key, found.size, found.modified)

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        yield await self.reader(key, start, stop)

    async def reader(
        self, key: Key, start: int = 0, stop: int | None = None, *, version: Version = _ANY
    ) -> AzureReader:
        """Return a reader that has the first 4 MiB.  Raises KeyMissing, RangeOutside."""
        if stop is not None and stop <= start:
            found = await self.whole(key)
            check_start(key, start, found.size)
            return AzureReader(self, key, found, start, start, b"")
        length = _GET_BYTES if stop is None else stop - start
        data, found = await self._get(key, start, length, version)
        end = found.size if stop is None else min(stop, found.size)
        return AzureReader(self, key, found, start, end, data)

    async def read_on(self, key: Key, start: int, stop: int, version: Version) -> bytes:
        """Return up to 4 MiB more of a blob that is being read."""
        try:
            return (await self._get(key, start, stop - start, version))[0]
        except (KeyMissing, RangeOutside) as error:
            raise StorageUnavailable(f"{self.describe(key)}: it was removed while it was read") from error

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        return await self.put_blob(key, b"".join(data), when)

    async def put_blob(
        self, key: Key, body: bytes, when: When = ALWAYS, metadata: dict[str, str] | None = None
    ) -> Version:
        """Write a blob.  On a condition `metadata` must be unique to the call, and is made by default: it
        identifies the blob of an attempt whose response was lost, since aiohttp repeats a PUT by itself when the
        connection breaks. Raises Conflict.
        """
        if isinstance(when, Unchanged) and not when.version.startswith('"'):
            raise Conflict(f"{key}: it has changed")  # not an ETag; the service would answer 400
        if when is not ALWAYS:
            metadata = metadata or {"session": secrets.token_hex(8)}
        try:
            return await self._put_once(key, body, when, metadata)
        except RequestFailed as refusal:
            if is_other_type(refusal.failure):
                return await self._put_over(key, body, when, metadata)
            if metadata is not None and (version := await self.own_version(key, metadata)) is not None:
                return version
            raise Conflict(f"{key}: {refusal.failure.code}") from refusal

    async def _put_once(self, key: Key, body: bytes, when: When, metadata: dict[str, str] | None) -> Version:
        async def work(blob: BlobClient) -> Version:
            done = await blob.upload_blob(
                body, length=len(body), overwrite=True, metadata=metadata, **conditions(when)
            )
            return Version(str(done["etag"]))

        try:
            return await self.call("Put Blob", key, work)
        except KeyMissing as error:  # a condition on a blob that is not there, in some answers
            raise Conflict(f"{key}: it is gone") from error

    async def _put_over(self, key: Key, body: bytes, when: When, metadata: dict[str, str] | None) -> Version:
        """Write over an append blob, which the service does not replace: remove exactly that one first."""
        for _ in range(self.options.attempts):
            try:
                found = await self.properties(key)
            except KeyMissing:
                found = None
            if found is not None:
                if when is ABSENT or (isinstance(when, Unchanged) and when.version != found.version):
                    raise Conflict(f"{key}: it is there")
                await self.remove(key, found.version)
            elif isinstance(when, Unchanged):
                raise Conflict(f"{key}: it is gone")
            try:
                return await self._put_once(key, body, ABSENT if found is not None else when, metadata)
            except RequestFailed as refusal:
                if when is not ALWAYS:
                    raise Conflict(f"{key}: {refusal.failure.code}") from refusal
        raise StorageUnavailable(f"{self.describe(key)}: others kept writing to it")

    async def own_version(self, key: Key, metadata: dict[str, str]) -> Version | None:
        """Return the blob's version if it was written with this metadata, which is unique; else None."""
        try:
            found = await self.whole(key)
        except KeyMissing:
            return None
        return found.version if found.metadata == metadata else None

    async def remove(self, key: Key, version: Version) -> bool:
        """Delete exactly this version; return False for another one."""

        async def work(blob: BlobClient) -> None:
            await blob.delete_blob(delete_snapshots="include", **conditions(Unchanged(version)))

        try:
            await self.call("Delete Blob", key, work)
        except (KeyMissing, RequestFailed):
            return False
        return True

    async def remove_unchanged(self, known: Stat) -> bool:
        """Delete the blob if it is still the one of `known`; return False if it is another one."""
        try:
            found = await self.properties(known.key)
            same = (found.size, found.modified) == (known.size, known.modified)
            return same and (await self.remove(known.key, found.version) or await self._is_gone(known.key))
        except KeyMissing:
            return True

    async def _is_gone(self, key: Key) -> bool:
        await self.properties(key)
        return False

    async def delete(self, keys: Sequence[Key]) -> None:
        """Remove objects; missing ones are fine."""
        await delete_each(keys, self._delete)

    async def _delete(self, key: Key) -> None:
        async def work(blob: BlobClient) -> None:
            await blob.delete_blob(delete_snapshots="include")

        try:
            await self.call("Delete Blob", key, work)
        except KeyMissing:
            return
        except RequestFailed as refusal:
            raise self.location.error(refusal.failure, "Delete Blob", key) from refusal

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = _PAGE) -> NamePage:
        """See `interface.Pages`.  A service that does not know `startFrom` lists from the beginning."""
        whole = self.path(f"{prefix}/")
        more: dict[str, Any] = {"start_from": f"{whole}{after}"} if after and not token else {}

        async def work(container: ContainerClient) -> tuple[list[str], str]:
            walk = container.walk_blobs(
                name_starts_with=whole, delimiter="/", results_per_page=min(limit, _PAGE), **more
            )
            pages: Any = walk.by_page(continuation_token=token or None)
            try:
                found = [str(item.name) async for item in await anext(pages)]
            except StopAsyncIteration:
                return [], ""
            return found, str(pages.continuation_token or "")

        found, next_token = await self.call_container("List Blobs", prefix, work)
        paths = sorted(path for path in found if path > f"{whole}{after}")
        names = [path[len(whole) :].removesuffix("/") for path in paths]
        return NamePage([name for name in names if name], next_token)

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        whole, token = self.path(f"{prefix}/"), ""
        while True:
            page, token = await self._walk_page(prefix, whole, token, [])
            if page:
                yield page
            if not token:
                return

    async def walk_all(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        """As `walk`, with blobs that have uncommitted blocks only, as empty ones."""
        whole, token = self.path(f"{prefix}/"), ""
        while True:
            page, token = await self._walk_page(prefix, whole, token, ["uncommittedblobs"])
            yield page
            if not token:
                return

    async def _walk_page(self, prefix: Key, whole: str, token: str, include: list[str]) -> tuple[list[Stat], str]:
        async def work(container: ContainerClient) -> tuple[list[Stat], str]:
            walk = container.list_blobs(
                name_starts_with=whole, include=include, results_per_page=self.options.list_page
            )
            pages: Any = walk.by_page(continuation_token=token or None)
            try:
                found = [
                    Stat(
                        self.location.key(item.name),
                        int(item.size),
                        item.last_modified or item.creation_time,
                    )
                    async for item in await anext(pages)
                ]
            except StopAsyncIteration:
                return [], ""
            # Blobs of other programs, whose names are not keys, are skipped.
            return [stat for stat in found if is_key(stat.key)], str(pages.continuation_token or "")

        return await self.call_container("List Blobs", prefix, work)

    async def sign(self, key: Key, *, expires_s: float) -> SignedUrl | None:
        url = await self.connection.sign(self.path(key), expires_s=expires_s)
        return None if url is None else SignedUrl(url)


class AzureReader:
    """See `driver.Reader`.  4 MiB a request, each on condition that the blob is still the same."""

    def __init__(
        self, objects: AzureRequests, key: Key, found: BlobProperties, start: int, end: int, data: bytes
    ) -> None:
        self.stat = Stat(key, found.size, found.modified)
        self._objects = objects
        self._key = key
        self._version = found.version
        self._at = start
        self._end = end
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._at < self._end:
            if not self._data:
                self._data = await self._objects.read_on(self._key, self._at, self._end, self._version)
            data, self._data = self._data[: self._end - self._at], b""
            self._at += len(data)
            for piece in slices(data):
                yield piece


def conditions(when: When) -> dict[str, Any]:
    """Return the library's arguments.  (`etag="*"` with IfMissing becomes a wrong keyword inside aiohttp.)"""
    from azure.core import MatchConditions

    if when is ABSENT:
        return {"match_condition": MatchConditions.IfMissing}
    if isinstance(when, Unchanged):
        return {"match_condition": MatchConditions.IfNotModified, "etag": str(when.version)}
    return {}


def _properties(properties: Any, *, total: int | None = None) -> BlobProperties:
    """Return the properties of a `azure.storage.blob.BlobProperties`."""
    status = str(properties.copy.status or "")
    return BlobProperties(
        int(properties.size) if total is None else total,
        properties.last_modified,
        Version(str(properties.etag)),
        dict(properties.metadata or {}),
        status if status in _UNFINISHED else "",
        str(properties.copy.progress or ""),
    )


def _total(content_range: str) -> int:
    """Return the size of the object from `bytes 0-99/1234`."""
    return int(content_range.rpartition("/")[2])
