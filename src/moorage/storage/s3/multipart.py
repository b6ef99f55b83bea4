"""Multipart uploads: joins of objects of any size in S3, and large objects written piece by piece.

    sources ──► (groups, where there are more than 10 000) ──► parts ──► one object

A single source within the limit of CopyObject is one request.  Otherwise each source is a part, copied by the
store; one that is too large for a part, or above `multipartcopythresholdsize`, is copied as several.  The target
is looked up first where making it again would cost more requests: it is named by its content.

A multipart upload that is not completed is kept and billed, and no listing of objects shows it.  So a failure or a
cancellation waits for the parts on their way and aborts the upload; what a dead process leaves is aborted by
age (`unfinished`).

Source: docs/reference/object-storage.md, sections 3 and 4.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.shielding import run_to_completion, wait_settled
from moorage.storage.driver import (
    Key,
    KeyMissing,
    StorageError,
    StorageUnavailable,
    Stored,
    UploadChanged,
    UploadMissing,
)
from moorage.storage.object_store.helpers import find
from moorage.storage.object_store.interface import Source
from moorage.storage.s3.errors import RequestUnsupported
from moorage.storage.s3.requests import NoSuchUpload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from datetime import datetime

    from moorage.storage.object_store.interface import LargeWriter
    from moorage.storage.s3.options import S3Limits
    from moorage.storage.s3.requests import S3Requests

__all__ = ["Part", "S3Multipart", "parts_of"]

_AT_ONCE: Final = 8
_log: Final = structlog.get_logger("moorage.storage.s3")

Part = tuple[Source, int, int]
"""Bytes [start, stop) of a source."""


def parts_of(sources: Sequence[Source], *, limits: S3Limits, copy_chunk: int, copy_threshold: int) -> list[Part]:
    """Return the parts of a join: whole sources, or pieces of `copy_chunk` to just under twice that, none of them
    larger than a part may be.
    """
    parts: list[Part] = []
    for source in sources:
        count = 1
        if source.size > min(copy_threshold, limits.part_bytes):
            most = max(1, limits.parts // 2 // len(sources))
            count = max(1, min(source.size // copy_chunk, most), -(-source.size // limits.part_bytes))
        edges = [source.size * number // count for number in range(count + 1)]
        parts += [(source, start, stop) for start, stop in pairwise(edges)]
    return parts


class S3Multipart:
    """Joins and large writes of one store."""

    def __init__(self, requests: S3Requests) -> None:
        self._requests = requests
        self._call = requests.call
        self._path = requests.path
        self._options = requests.options

    def _kept(self, key: Key, storage_class: str) -> dict[str, Any]:
        """Return the parameters of requests that make an object."""
        options = self._options
        found: dict[str, Any] = {"Key": self._path(key)}
        if storage_class:
            found["StorageClass"] = storage_class
        if options.objectacl:
            found["ACL"] = options.objectacl
        if options.encrypt:
            found["ServerSideEncryption"] = "aws:kms" if options.keyid else "AES256"
            if options.keyid:
                found["SSEKMSKeyId"] = options.keyid
        return found

    async def _copy_whole(self, to: Key, source: Source, kind: str) -> None:
        """CopyObject.  Raises UploadChanged."""
        await self._call(
            "copy_object", to, **self._kept(to, kind), CopySource=self._copied(source),
            CopySourceIfMatch=source.version,
        )  # fmt: skip

    async def _copy(self, source: Source, **parameters: Any) -> str:
        """UploadPartCopy from `source` as it was when it was hashed; return the part's ETag.  Raises
        UploadChanged.

        Swift (2.30) stores another ETag of a joined object than it returns, and refuses the returned one as a
        condition.  So after a refusal the version is compared; if it is the same, the part is copied without the
        condition, and the version compared again.
        """
        copy = {**parameters, "CopySource": self._copied(source)}
        try:
            response = await self._call("upload_part_copy", source.key, **copy, CopySourceIfMatch=source.version)
        except UploadChanged:
            await self._unchanged(source)
            response = await self._call("upload_part_copy", source.key, **copy)
            await self._unchanged(source)
        return str(response["CopyPartResult"]["ETag"])

    def _copied(self, source: Source) -> dict[str, str]:
        return {"Bucket": self._options.bucket, "Key": self._path(source.key)}

    async def _unchanged(self, source: Source) -> None:
        """Raises UploadChanged if `source` is no longer of its version."""
        if (await self._requests.versioned(source.key))[1] != source.version:
            raise UploadChanged(f"{source.key}: it is no longer what was written there")

    async def join(self, to: Key, sources: Sequence[Source], tail: bytes, scratch: Key) -> Stored:
        """See `interface.JoiningStore`."""
        options = self._options
        kind = self._requests.storage_class(to)
        whole = min(options.multipartcopythresholdsize, options.limits.part_bytes)
        try:
            if len(sources) == 1 and not tail and sources[0].size <= whole:
                with suppress(UploadChanged):
                    await run_to_completion(self._copy_whole(to, sources[0], kind))
                    return Stored.WRITTEN
                # The refusal may be wrong, see `_copy`; parts are invisible until they have been checked.
                await self._unchanged(sources[0])
            size = sum(source.size for source in sources) + len(tail)
            if await self._size(to) == size:
                return Stored.KEPT
            few, made = await self._few(sources, scratch)
            stored = await self._assemble(to, few, tail, kind)
            if made:
                await run_to_completion(self._requests.delete(made))
        except KeyMissing as error:
            raise UploadMissing(str(error)) from error
        return stored

    async def _few(self, sources: Sequence[Source], scratch: Key) -> tuple[Sequence[Source], list[Key]]:
        """Return at most as many sources as an object has parts, and the intermediate objects made for it."""
        limits = self._options.limits
        made: list[Key] = []
        level = 0
        while len(sources) >= limits.parts:
            level += 1
            count = min(limits.parts - 1, max(2, limits.group_bytes // max(1, sources[0].size)))
            groups = [sources[start : start + count] for start in range(0, len(sources), count)]
            joined: list[Source] = []
            for number, group in enumerate(groups):
                if len(group) == 1:
                    joined += group
                    continue
                key = Key(f"{scratch}/{level}.{number:08d}")
                made.append(key)
                await self._assemble(key, group, b"", self._requests.storage_class(key))
                # Ceph's radosgw (16) answers a completion without an ETag.
                version = (await self._requests.versioned(key))[1]
                joined.append(Source(key, sum(source.size for source in group), version))
            sources = joined
        return sources, made

    async def _assemble(self, to: Key, sources: Sequence[Source], tail: bytes, kind: str) -> Stored:
        """Make one object of copied parts, and the tail as the last one."""
        options = self._options
        parts = parts_of(
            sources,
            limits=options.limits,
            copy_chunk=options.multipartcopychunksize,
            copy_threshold=options.multipartcopythresholdsize,
        )
        upload = await self._begin(to, kind)
        done: dict[int, str] = {}

        async def copy(number: int, part: Part) -> None:
            source, start, stop = part
            more = {} if stop - start == source.size else {"CopySourceRange": f"bytes={start}-{stop - 1}"}
            try:
                done[number] = await self._copy(
                    source, Key=self._path(to), UploadId=upload, PartNumber=number, **more
                )
            except NoSuchUpload as error:
                raise self._vanished(to) from error

        try:
            await _each([copy(number, part) for number, part in enumerate(parts, 1)])
            if tail:
                number = len(parts) + 1
                done[number] = await self._send(to, upload, number, tail)
            return await self._complete(to, upload, done, sum(source.size for source in sources) + len(tail))
        except BaseException:
            await self._give_up(to, upload)
            raise

    async def _begin(self, to: Key, kind: str) -> str:
        kept = self._kept(to, kind)
        begun = asyncio.ensure_future(
            self._call("create_multipart_upload", to, ContentType="application/octet-stream", **kept)
        )
        try:
            return str((await asyncio.shield(begun))["UploadId"])
        except asyncio.CancelledError:
            await wait_settled(begun)
            if not begun.cancelled() and begun.exception() is None:
                await self._give_up(to, str(begun.result()["UploadId"]))
            raise

    async def _send(self, to: Key, upload: str, number: int, data: bytes) -> str:
        try:
            response = await run_to_completion(
                self._call(
                    "upload_part", to, Key=self._path(to), UploadId=upload, PartNumber=number, Body=data,
                    ContentLength=len(data),
                )
            )  # fmt: skip
        except NoSuchUpload as error:
            raise self._vanished(to) from error
        return str(response["ETag"])

    async def _complete(self, to: Key, upload: str, done: dict[int, str], size: int) -> Stored:
        parts = [{"PartNumber": number, "ETag": tag} for number, tag in sorted(done.items())]
        try:
            await run_to_completion(
                self._call(
                    "complete_multipart_upload", to, Key=self._path(to), UploadId=upload,
                    MultipartUpload={"Parts": parts},
                )
            )  # fmt: skip
        except NoSuchUpload as error:
            # An earlier attempt, whose response was lost, may have completed it.
            if await self._size(to) != size:
                raise self._vanished(to) from error
            return Stored.KEPT
        return Stored.WRITTEN

    def _vanished(self, key: Key) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._requests.location.describe(key)}: its multipart upload was aborted by another client"
        )

    async def _give_up(self, to: Key, upload: str) -> None:
        """Abort the upload; after a failure `unfinished` finds its parts by age."""
        try:
            await run_to_completion(self._call("abort_multipart_upload", to, Key=self._path(to), UploadId=upload))
        except (NoSuchUpload, KeyMissing):
            return
        except StorageError as error:
            _log.warning("parts of an object were left behind", key=to, cause=str(error))

    @asynccontextmanager
    async def large(self, key: Key) -> AsyncIterator[LargeWriter]:
        """See `interface.ObjectStore`."""
        upload = await self._begin(key, self._requests.storage_class(key))
        writer = _MultipartWriter(self._send, self._complete, key, upload)
        try:
            yield writer
        finally:
            if not writer.committed:
                await self._give_up(key, upload)

    async def legacy_size(self, data: Key) -> int | None:
        """See `interface.JoiningStore`."""
        upload = await self._latest(data)
        if upload is None:
            return await self._size(data)
        return sum(size for _, _, size in await self._sent(data, upload))

    async def adopt(self, data: Key) -> Source | None:
        """See `interface.JoiningStore`: the parts that CNCF Distribution sent become the object `data`."""
        upload = await self._latest(data)
        if upload is not None:
            sent = await self._sent(data, upload)
            if not sent:
                await self.abort(data)
                return None
            size = sum(size for _, _, size in sent)
            await self._complete(data, upload, {number: tag for number, tag, _ in sent}, size)
        try:
            stat, version = await self._requests.versioned(data)
        except KeyMissing:
            return None
        return Source(data, stat.size, version) if stat.size else None

    async def _latest(self, data: Key) -> str | None:
        """Return the id of the newest upload in progress at exactly this key."""
        found = [entry async for entry in self._begun(data) if entry["Key"] == self._path(data)]
        found.sort(key=lambda entry: entry["Initiated"])
        return str(found[-1]["UploadId"]) if found else None

    async def _sent(self, data: Key, upload: str) -> list[tuple[int, str, int]]:
        """Return number, ETag and size of each part."""
        found: list[tuple[int, str, int]] = []
        marker = 0
        while True:
            response = await self._call(
                "list_parts", data, Key=self._path(data), UploadId=upload, PartNumberMarker=marker
            )
            found += [(part["PartNumber"], part["ETag"], part["Size"]) for part in response.get("Parts", ())]
            if not response.get("IsTruncated"):
                return sorted(found)
            marker = int(response["NextPartNumberMarker"])

    async def _begun(self, prefix: str) -> AsyncIterator[dict[str, Any]]:
        """Yield every upload in progress whose key begins with `prefix`; none where the store lists none."""
        markers: dict[str, str] = {}
        while True:
            try:
                response = await self._call("list_multipart_uploads", prefix, Prefix=self._path(prefix), **markers)
            except RequestUnsupported:
                return
            for entry in response.get("Uploads", ()):
                yield entry
            if not response.get("IsTruncated"):
                return
            markers = {
                "KeyMarker": response["NextKeyMarker"],
                "UploadIdMarker": response.get("NextUploadIdMarker", ""),
            }

    async def _size(self, key: Key) -> int | None:
        stat = await find(self._requests, key)
        return None if stat is None else stat.size

    async def abort(self, data: Key) -> None:
        """See `interface.JoiningStore`."""
        for upload in [entry["UploadId"] async for entry in self._begun(data) if entry["Key"] == self._path(data)]:
            await self._give_up(data, upload)

    async def unfinished(self, under: Key, before: datetime, *, abort: bool) -> Sequence[Key]:
        """See `interface.JoiningStore`.  MinIO lists only exact keys, and removes old uploads by itself."""
        begun = self._begun(f"{under}/")
        location = self._requests.location
        old = [
            (location.key(entry["Key"]), str(entry["UploadId"]))
            async for entry in begun
            if entry["Initiated"] < before
        ]
        for key, upload in old if abort else ():
            await self._give_up(key, upload)
        return [key for key, _ in old]


class _MultipartWriter:
    """See `interface.LargeWriter`."""

    def __init__(
        self,
        send: Callable[[Key, str, int, bytes], Coroutine[Any, Any, str]],
        complete: Callable[[Key, str, dict[int, str], int], Coroutine[Any, Any, Stored]],
        key: Key,
        upload: str,
    ) -> None:
        self._send = send
        self._complete = complete
        self._key = key
        self._upload = upload
        self._done: dict[int, str] = {}
        self._size = 0
        self.committed = False

    async def add(self, data: Sequence[bytes]) -> None:
        number, piece = len(self._done) + 1, b"".join(data)
        self._done[number] = await self._send(self._key, self._upload, number, piece)
        self._size += len(piece)

    async def commit(self) -> Stored:
        stored = await self._complete(self._key, self._upload, self._done, self._size)
        self.committed = True
        return stored


async def _each(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all of `works`, a few at a time; after a failure or a cancellation none is begun, and those on their
    way are awaited.
    """
    waiting = list(reversed(works))

    async def worker() -> None:
        while waiting:
            try:
                await waiting.pop()
            except BaseException:
                while waiting:
                    waiting.pop().close()
                raise

    tasks = [asyncio.ensure_future(worker()) for _ in range(min(_AT_ONCE, len(works)))]
    try:
        for task in tasks:
            await asyncio.shield(task)
    except BaseException:
        while waiting:
            waiting.pop().close()
        await wait_settled(*tasks)
        raise
