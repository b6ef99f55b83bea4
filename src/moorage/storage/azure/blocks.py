"""Blobs that grow by blocks, and copies inside the service.

A block blob is the list of blocks that was last committed.  Committing a list replaces the blob's content and its
metadata in one step, on condition of the version that was there: blocks that the list does not name are gone, and
a commit to an older version is refused.  Blocks that were sent and not committed are invisible; the service
removes them a week after the last one.

Above: `azure/uploads.py`, `azure/store.py`.  Source: Azure's REST reference: Put Block List, Copy Blob.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.storage.azure.errors import is_other_type
from moorage.storage.azure.requests import AzureRequests, BlobProperties, conditions
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
from moorage.storage.object_store.errors import RequestFailed
from moorage.storage.object_store.helpers import new_session

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
    "stage",
]

WRITING: Final = Key("_writing")
"""Prefix of large blobs until they are copied to their key; outside of all listed prefixes."""

_COPIED: Final = {"moorage": "1"}
"""Metadata of a published blob: without any, the upload's would be copied."""
_LONGEST_PAUSE_S: Final = 5.0
_HANGING_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a committed list.  Names within a blob are of the same length, as the service demands."""

    name: str
    size: int


def block_name(session: str, number: int) -> str:
    return f"{session}{number:08d}"


async def stage(requests: AzureRequests, key: Key, name: str, data: bytes) -> None:
    """Send a block.  The blob need not exist."""

    async def work(blob: BlobClient) -> None:
        await blob.stage_block(name, data, length=len(data))

    try:
        await requests.call("Put Block", key, work)
    except RequestFailed as refusal:
        raise requests.location.error(refusal.failure, "Put Block", key) from refusal


async def commit(
    requests: AzureRequests, key: Key, names: Sequence[str], when: When, metadata: dict[str, str]
) -> Version:
    """Make the blob of these blocks, all or nothing.  `metadata` must be unique to the call: it identifies a
    commit whose response was lost.  Raises Conflict.
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
        return await requests.call("Put Block List", key, work)
    except KeyMissing as error:
        raise Conflict(f"{key}: it is gone") from error
    except RequestFailed as refusal:
        if (version := await requests.own_version(key, metadata)) is not None:
            return version
        raise Conflict(f"{key}: {refusal.failure.code}") from refusal


async def blocks_of(requests: AzureRequests, key: Key) -> list[Block]:
    """Return the committed list, in order.  Raises KeyMissing."""

    async def work(blob: BlobClient) -> list[Block]:
        committed, _ = await blob.get_block_list("committed")
        return [Block(str(block.id), int(block.size)) for block in committed]

    return await requests.call("Get Block List", key, work)


async def drop(requests: AzureRequests, key: Key) -> None:
    """Remove blocks that were sent to a blob that does not exist.  There is no call for it: a commit of none of
    them makes an empty blob, which can be removed.  (Put Blob would do on Azure; azurite takes it for a conflict.)
    """
    try:
        version = await commit(requests, key, [], ABSENT, {"session": new_session()})
    except Conflict:
        return
    await requests.remove(key, version)


async def copy(
    source: AzureRequests, key: Key, version: Version, size: int, target: AzureRequests, to: Key
) -> Stored:
    """Copy exactly this version of `key` to `to`; an existing whole blob of that size is kept.

    Copies in one account are usually done when the call returns.  A longer one is awaited while it makes
    progress, and is invisible to readers until it is whole.  Raises UploadMissing, UploadChanged.
    """
    when: When = ABSENT
    for attempt in range(1, target.options.attempts + 1):
        try:
            status = await _start(source, key, version, target, to, when)
        except KeyMissing as error:
            raise UploadMissing(key) from error
        except RequestFailed as refusal:
            there = await _properties(target, to)
            if there is not None and there.copying == "pending":
                await _finish(target, to, "pending")
                there = await _properties(target, to)
            if there is not None and not there.copying and there.size == size:
                return Stored.KEPT
            await _check(source, key, version)
            if there is not None and is_other_type(refusal.failure):
                await target.remove(to, there.version)
                there = None
            when = ABSENT if there is None else Unchanged(there.version)
            await target.retry.pause(attempt)
            continue
        await _finish(target, to, status)
        return Stored.WRITTEN
    raise StorageUnavailable(f"{target.describe(to)}: others kept writing to it")


async def _start(
    source: AzureRequests, key: Key, version: Version, target: AzureRequests, to: Key, when: When
) -> str:
    from azure.core import MatchConditions

    signed = await source.sign(key, expires_s=_HANGING_S * 4)
    # An identity that may not sign URLs may still read within its own account.
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

    return await target.call("Copy Blob", to, work)


async def _properties(requests: AzureRequests, key: Key) -> BlobProperties | None:
    try:
        return await requests.properties(key)
    except KeyMissing:
        return None


async def _check(source: AzureRequests, key: Key, version: Version) -> None:
    found = await _properties(source, key)
    if found is None:
        raise UploadMissing(key)
    if found.version != version:
        raise UploadChanged(f"{key}: another request has extended it")


async def _finish(target: AzureRequests, to: Key, status: str) -> None:
    """Wait until a copy is whole."""
    count, waited, seen = 0, 0.0, ""
    while status == "pending":
        count += 1
        pause = min(_LONGEST_PAUSE_S, target.options.retry_delay * count)
        await target.retry.sleep(pause)
        found = await _properties(target, to)
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
    """See `interface.LargeWriter`: it grows at a key outside of all listings, and is copied when it is whole."""

    def __init__(self, requests: AzureRequests, to: Key) -> None:
        self._requests = requests
        self._to = to
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
        await stage(self._requests, self._key, name, body)

    async def commit(self) -> Stored:
        self._committed = True
        version = await commit(self._requests, self._key, self._names, ABSENT, {"session": self._session})
        return await copy(self._requests, self._key, version, self._size, self._requests, self._to)

    async def leave(self) -> None:
        if self._committed:
            await self._requests.delete([self._key])
        elif self._names:
            await drop(self._requests, self._key)
