"""One blob from one store to the other: hashed while it streams, and visible only when the digest is right.

Two repositories that want the same blob at the same time share one transfer.  Memory: `at_once` transfers, each
with a piece of 1 MiB and what the destination's writer holds (a part of `chunksize`, twice, for S3).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from moorage.caches import BoundedCache
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

__all__ = ["BlobMover", "BlobRules", "BlobState"]

_REMEMBERED: Final = 200_000


class BlobState(Enum):
    """How it ended for one blob."""

    WHOLE = "whole"
    GONE = "its bytes are not in the source"
    CORRUPT = "its bytes in the source are not those of its digest"
    UNREADABLE = "the source cannot read its bytes"


class _CannotRead(Exception):
    """The source gave up within one object; `str()` says why."""


@dataclass(frozen=True, slots=True)
class BlobRules:
    """`recheck`: hash what the destination has; `dry_run`: write nothing."""

    recheck: bool = False
    dry_run: bool = False


class BlobMover:
    """Brings blobs from `source` to `target`, at most `at_once` together."""

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
        self._source, self._rules = source, rules
        self._from = BlobStore(source)
        self._to = BlobStore(target)
        self._tally, self._reporter = tally, reporter
        self._turn = asyncio.Semaphore(at_once)
        self._whole: BoundedCache[Digest, bool] = BoundedCache(_REMEMBERED)
        self._failed: dict[Digest, BlobState] = {}
        self._running: SingleFlight[Digest, BlobState] = SingleFlight()

    async def ensure(self, digest: Digest) -> BlobState:
        """Make the blob whole at the destination.  A failure is told once, and remembered for this run.

        Raises StorageError for what concerns more than this blob.
        """
        if self._whole.get(digest) is not None:
            return BlobState.WHOLE
        if (failed := self._failed.get(digest)) is not None:
            return failed
        return await self._running.run(digest, lambda: self._bring(digest))

    async def close(self) -> None:
        """End what is under way; nothing of it is visible."""
        await self._running.close()

    async def _bring(self, digest: Digest) -> BlobState:
        async with self._turn:
            state = await self._settle(digest)
        if state is BlobState.WHOLE:
            self._whole.put(digest, value=True)
        elif state is not BlobState.GONE:  # that may be a deletion; whoever needed the blob tells
            self._failed[digest] = state
            self._tally.problems += 1
            self._reporter.problem(str(digest), state.value)
        self._reporter.settled(self._tally)
        return state

    async def _settle(self, digest: Digest) -> BlobState:
        there = await self._to.stat(digest)
        here = await self._from.stat(digest)
        if here is None:
            return BlobState.WHOLE if there is not None and await self._is_whole(digest) else BlobState.GONE
        if (
            there is not None
            and there.size == here.size
            and (not self._rules.recheck or await self._is_whole(digest))
        ):
            self._tally.present += 1
            self._tally.present_bytes += here.size
            self._reporter.moved(here.size, copied=False)
            return BlobState.WHOLE
        try:
            state = await self._copy(digest, replace=there is not None and there.size == here.size)
        except _CannotRead:
            await self._source.probe()  # one bad sector is this blob's trouble; a dead store is everybody's
            state = BlobState.UNREADABLE
        except KeyMissing:
            state = BlobState.GONE
        if state is not BlobState.WHOLE and there is not None and await self._is_whole(digest):
            return BlobState.WHOLE
        return state

    async def _is_whole(self, digest: Digest) -> bool:
        with suppress(KeyMissing):
            found, _ = await self._to.hashed(digest)
            return found == digest.hex
        return False

    async def _copy(self, digest: Digest, *, replace: bool) -> BlobState:
        """Raises KeyMissing, _CannotRead."""
        hasher = hashing.new(digest.algorithm)
        if self._rules.dry_run:
            stat = await self._from.stat(digest)
            if stat is None:
                return BlobState.GONE
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
                    # A commit keeps an object that is there and has the right size: these bytes are wrong.
                    await self._to.remove(digest)
                await writer.commit()
            size = hasher.length
        self._tally.blobs += 1
        self._tally.blob_bytes += size
        return BlobState.WHOLE


async def _readable(batches: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
    """So that a failure to read is told from one to write."""
    while True:
        try:
            batch = await anext(batches)
        except StopAsyncIteration:
            return
        except StorageUnavailable as error:
            raise _CannotRead(str(error)) from error
        yield batch
