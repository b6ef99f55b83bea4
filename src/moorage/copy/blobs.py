"""Transfers blobs from one store to another: hashed while they stream, visible only with the right digest.

Two repositories that need the same blob at the same time share one transfer.  Memory: `at_once` transfers, each
with a piece of 1 MiB and the buffer of the destination's writer (two parts of `chunksize` for S3).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.coalescing import SingleFlight
from moorage.concurrency import gather_all
from moorage.registry import hashing
from moorage.registry.blob_store import BlobStore
from moorage.storage.driver import KeyMissing, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.copy.progress import CopyReporter, Tally
    from moorage.storage.driver import Driver
    from moorage.types import Digest

__all__ = ["BlobRules", "BlobState", "BlobTransfer"]

_REMEMBERED: Final = 200_000


class BlobState(Enum):
    """The result of the transfer of one blob."""

    INTACT = "intact"
    MISSING = "its bytes are not in the source"
    CORRUPT = "its bytes in the source are not those of its digest"
    UNREADABLE = "the source cannot read its bytes"


class _CannotRead(Exception):
    """The source failed while it read one object; the message is the reason."""


@dataclass(frozen=True, slots=True)
class BlobRules:
    """`recheck`: hash blobs that the destination already has; `dry_run`: write nothing."""

    recheck: bool = False
    dry_run: bool = False


class BlobTransfer:
    """Transfers blobs from `source` to `target`, at most `at_once` at the same time."""

    def __init__(
        self,
        source: Driver,
        target: Driver,
        rules: BlobRules,
        tally: Tally,
        reporter: CopyReporter,
        *,
        at_once: int,
    ) -> None:
        self._source = source
        self._rules = rules
        self._from = BlobStore(source)
        self._to = BlobStore(target)
        self._tally = tally
        self._reporter = reporter
        self._turns = asyncio.Semaphore(at_once)
        self._intact: LRUCache[Digest, bool] = LRUCache(_REMEMBERED)
        self._failed: dict[Digest, BlobState] = {}
        self._running: SingleFlight[Digest, BlobState] = SingleFlight()

    async def ensure(self, digest: Digest) -> BlobState:
        """Ensure that the destination has the blob.  A failure is reported once and cached for this run.

        Raises StorageError for a failure that concerns more than this blob.
        """
        if self._intact.get(digest) is not None:
            return BlobState.INTACT
        if (failed := self._failed.get(digest)) is not None:
            return failed
        return await self._running.run(digest, lambda: self._ensure(digest))

    def forget(self, digest: Digest) -> None:
        """Forget that the destination has the blob: garbage collection has removed it there."""
        self._intact.drop(digest)

    async def close(self) -> None:
        """Cancel the transfers that are running; nothing of them is visible."""
        await self._running.close()

    async def _ensure(self, digest: Digest) -> BlobState:
        async with self._turns:
            state = await self._transfer(digest)
        if state is BlobState.INTACT:
            self._intact.put(digest, value=True)
        elif state is not BlobState.MISSING:  # MISSING may be a deletion, which the caller checks
            self._failed[digest] = state
            self._tally.problems += 1
            self._reporter.problem(str(digest), state.value)
        self._reporter.settled(self._tally)
        return state

    async def _transfer(self, digest: Digest) -> BlobState:
        existing = await self._to.stat(digest)
        original = await self._from.stat(digest)
        if original is None:
            return (
                BlobState.INTACT if existing is not None and await self._is_intact(digest) else BlobState.MISSING
            )
        same_size = existing is not None and existing.size == original.size
        if same_size and (not self._rules.recheck or await self._is_intact(digest)):
            self._tally.present += 1
            self._tally.present_bytes += original.size
            self._reporter.moved(original.size, copied=False)
            return BlobState.INTACT
        try:
            state = await self._copy(digest, replace=same_size)
        except _CannotRead:
            await self._source.probe()  # raises if the whole store cannot be read
            state = BlobState.UNREADABLE
        except KeyMissing:
            state = BlobState.MISSING
        if state is not BlobState.INTACT and existing is not None and await self._is_intact(digest):
            return BlobState.INTACT
        return state

    async def _is_intact(self, digest: Digest) -> bool:
        with suppress(KeyMissing):
            found, _ = await self._to.hashed(digest)
            return found == digest.hex
        return False

    async def _copy(self, digest: Digest, *, replace: bool) -> BlobState:
        """Transfer a blob that the destination lacks.  Raises KeyMissing, _CannotRead."""
        hasher = hashing.new(digest.algorithm)
        if self._rules.dry_run:
            stat = await self._from.stat(digest)
            if stat is None:
                return BlobState.MISSING
            size = stat.size
            self._reporter.moved(size, copied=True)
        else:
            async with self._to.create(digest) as writer:
                async for batch in _readable(self._from.pieces(digest)):
                    await gather_all(writer.write(batch), asyncio.to_thread(hasher.update, batch))
                    self._reporter.moved(sum(map(len, batch)), copied=True)
                if hasher.hexdigest() != digest.hex:
                    return BlobState.CORRUPT
                if replace:
                    # A commit may keep an existing object of the same size, whose bytes are wrong here.
                    await self._to.remove(digest)
                await writer.commit()
            size = hasher.length
        self._tally.blobs += 1
        self._tally.blob_bytes += size
        return BlobState.INTACT


async def _readable(batches: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
    """Raise `_CannotRead` for errors of the source, so that they differ from errors of the destination."""
    while True:
        try:
            batch = await anext(batches)
        except StopAsyncIteration:
            return
        except StorageUnavailable as error:
            raise _CannotRead(str(error)) from error
        yield batch
