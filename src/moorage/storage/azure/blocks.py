"""Blobs that grow by blocks, and copies inside the service.

A block blob is the list of blocks that was last committed.  Committing a list replaces the blob's content and its
metadata in one step, on condition of the version that was there: blocks that the list does not name are gone, and
whoever committed to an older version is refused.  Blocks that were sent and not committed are seen by nobody; the
service removes them a week after the last one.

Above: `azure/uploads.py`, `legacy_names.py`.  Source: Azure's REST reference: Put Block List, Copy Blob.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.azure.objects import AzureObjects, Found, Refusal, conditions
from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    StorageUnavailable,
    Stored,
    Unchanged,
    UploadChanged,
    UploadMissing,
    Version,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from azure.storage.blob.aio import BlobClient

    from moorage.storage.driver import When

__all__ = [
    "WRITING",
    "Block",
    "LargeBlob",
    "block_name",
    "blocks_of",
    "commit",
    "copy",
    "drop",
    "new_session",
    "stage",
]

WRITING: Final = Key("_writing")
"""Where large blobs grow until they are copied to their key; outside of all that is ever listed."""

_COPIED: Final = {"moorage": "1"}
"""The metadata of what we publish: without any the upload's would be copied along."""
_LONGEST_PAUSE_S: Final = 5.0
_HANGING_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a committed list.  Names within a blob are of the same length, as the service demands."""

    name: str
    size: int


def new_session() -> str:
    """Names what one request writes: nobody else uses it."""
    return secrets.token_hex(8)


def block_name(session: str, number: int) -> str:
    return f"{session}{number:08d}"


async def stage(objects: AzureObjects, key: Key, name: str, data: bytes) -> None:
    """Send a block.  The blob need not exist."""

    async def work(blob: BlobClient) -> None:
        await blob.stage_block(name, data, length=len(data))

    try:
        await objects.ask("Put Block", key, work)
    except Refusal as refusal:
        raise objects.failed(refusal.failure, "Put Block", key) from refusal


async def commit(
    objects: AzureObjects, key: Key, names: Sequence[str], when: When, metadata: dict[str, str]
) -> Version:
    """The blob is these blocks from now on, all or nothing.  `metadata` must be new with each call: by it we know
    our own commit again whose answer was lost.  Raises Conflict.
    """
    from azure.storage.blob import BlobBlock, ContentSettings

    async def work(blob: BlobClient) -> Version:
        done = await blob.commit_block_list(
            [BlobBlock(name) for name in names],
            content_settings=ContentSettings(content_type="application/octet-stream"),
            metadata=metadata,
            **conditions(when),
        )
        return Version(str(done["etag"]))

    try:
        return await objects.ask("Put Block List", key, work)
    except KeyMissing as error:
        raise Conflict(f"{key}: it is gone") from error
    except Refusal as refusal:
        if (version := await objects.ours(key, metadata)) is not None:
            return version
        raise Conflict(f"{key}: {refusal}") from refusal


async def blocks_of(objects: AzureObjects, key: Key) -> list[Block]:
    """The committed list, in order.  Raises KeyMissing."""

    async def work(blob: BlobClient) -> list[Block]:
        committed, _ = await blob.get_block_list("committed")
        return [Block(str(block.id), int(block.size)) for block in committed]

    return await objects.ask("Get Block List", key, work)


async def drop(objects: AzureObjects, key: Key) -> None:
    """Remove blocks that were sent to a blob that does not exist.  There is no call for it: a commit of none of
    them makes an empty blob, which can be removed.  (Put Blob would do on Azure; azurite takes it for a conflict.)
    """
    try:
        version = await commit(objects, key, [], ABSENT, {"session": new_session()})
    except Conflict:
        return
    await objects.remove(key, version)


async def copy(
    source: AzureObjects, key: Key, version: Version, size: int, target: AzureObjects, to: Key
) -> Stored:
    """Exactly this version of `key` appears under `to`; a whole blob of that size already there is kept.

    Copies in one account are usually done when the call returns.  One that takes longer is waited for as long as
    it gets on, and readers see nothing of it until it is whole.  Raises UploadMissing, UploadChanged.
    """
    when: When = ABSENT
    for attempt in range(1, target.options.attempts + 1):
        try:
            status = await _start(source, key, version, target, to, when)
        except KeyMissing as error:
            raise UploadMissing(key) from error
        except Refusal as refusal:
            there = await _there(target, to)
            if there is not None and there.copying == "pending":
                await _finish(target, to, "pending")
                there = await _there(target, to)
            if there is not None and not there.copying and there.size == size:
                return Stored.KEPT
            await _check(source, key, version)
            if there is not None and refusal.failure.other_type:
                await target.remove(to, there.version)
                there = None
            when = ABSENT if there is None else Unchanged(there.version)
            await target.sleep(target.options.pause_s * attempt)
            continue
        await _finish(target, to, status)
        return Stored.WRITTEN
    raise StorageUnavailable(f"{target.describe(to)}: others kept writing to it")


async def _start(
    source: AzureObjects, key: Key, version: Version, target: AzureObjects, to: Key, when: When
) -> str:
    from azure.core import MatchConditions

    signed = await source.sign(key, expires_s=_HANGING_S * 4)
    # An identity that may not sign URLs may read what lies in the same account all the same.
    url = await source.connection.url_of(source.path(key)) if signed is None else signed.url

    async def work(blob: BlobClient) -> str:
        done: dict[str, Any] = await blob.start_copy_from_url(
            url,
            metadata=_COPIED,
            source_etag=str(version),
            source_match_condition=MatchConditions.IfNotModified,
            **conditions(when),
        )
        return str(done["copy_status"] or "")

    return await target.ask("Copy Blob", to, work)


async def _there(objects: AzureObjects, key: Key) -> Found | None:
    try:
        return await objects.find(key)
    except KeyMissing:
        return None


async def _check(source: AzureObjects, key: Key, version: Version) -> None:
    found = await _there(source, key)
    if found is None:
        raise UploadMissing(key)
    if found.version != version:
        raise UploadChanged(f"{key}: another request has extended it")


async def _finish(target: AzureObjects, to: Key, status: str) -> None:
    """Wait until a copy is whole."""
    count, waited, seen = 0, 0.0, ""
    while status == "pending":
        count += 1
        pause = min(_LONGEST_PAUSE_S, target.options.pause_s * count)
        await target.sleep(pause)
        found = await _there(target, to)
        if found is None:
            raise StorageUnavailable(f"{target.describe(to)}: it was removed while it was copied")
        status = found.copying
        waited = waited + pause if found.copied == seen else 0.0
        seen = found.copied
        if waited > _HANGING_S and status == "pending":
            raise StorageUnavailable(
                f"{target.describe(to)}: the service has copied nothing for {_HANGING_S:.0f} s"
            )
    if status in {"failed", "aborted"}:
        raise StorageUnavailable(f"{target.describe(to)}: the service did not finish the copy: {status}")


class LargeBlob:
    """See `objects.LargeWriter`: it grows at a key that nobody lists, and is copied when it is whole."""

    def __init__(self, objects: AzureObjects, to: Key) -> None:
        self._objects, self._to = objects, to
        self._session = new_session()
        self._key = Key(f"{WRITING}/{self._session}")
        self._names: list[str] = []
        self._size = 0
        self._committed = False

    async def add(self, data: Sequence[bytes]) -> None:
        name = block_name(self._session, len(self._names))
        self._names.append(name)
        body = b"".join(data)
        self._size += len(body)
        await stage(self._objects, self._key, name, body)

    async def commit(self) -> Stored:
        self._committed = True
        version = await commit(self._objects, self._key, self._names, ABSENT, {"session": self._session})
        return await copy(self._objects, self._key, version, self._size, self._objects, self._to)

    async def leave(self) -> None:
        if self._committed:
            await self._objects.delete([self._key])
        elif self._names:
            await drop(self._objects, self._key)
