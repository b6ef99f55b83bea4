"""Uploads as block blobs: a checkpoint is one commit.

    HOME/blocks       the upload: its committed blocks are its bytes, its metadata has the start time and the notes
                      of exactly these bytes
    HOME/startedat    as CNCF Distribution writes it, for its purger; from the first checkpoint on

    append      a block is sent while the next one fills: two blocks in memory at most
    checkpoint  one Put Block List: bytes, notes and fence in one step, on condition of the version that was read;
                an upload of less than 1 MiB is one Put Blob instead, and no blocks
    seal        all bytes in memory: nothing, they are written to the final key; else a checkpoint
    publish     Copy Blob inside the account, on condition of the version, awaited; an existing blob is kept
    discard     the blob is emptied, which drops what was sent and never committed, and everything is deleted

No bytes are torn or mixed: uncommitted blocks are invisible, a commit is all or nothing, and conditions
are exact on Azure.  A crash before a commit leaves the checkpoint before it; blocks that were sent are dropped by
the next commit, and by the service after a week.  Of two requests that began with one version the second to commit
is refused (UploadChanged), and one whose upload was discarded finds no version to commit over (UploadMissing).

CNCF Distribution appends to `HOME/data`, an append blob, which cannot be truncated to a checkpoint and takes no
notes. Uploads that it began are read there, and copied through the registry into blocks by the first request that
extends or publishes them.  It does not continue uploads of Moorage: the client begins that layer again.

Above: `storage/object_store/driver.py`.  Source: docs/reference/object-storage.md, section 4, with blocks for the
append blob because of the torn bytes that it keeps.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.shielding import run_to_completion
from moorage.storage.azure.appender import AzureAppender, BlockLog, decode
from moorage.storage.azure.blocks import Block, block_name, blocks_of, commit, copy, drop, stage
from moorage.storage.azure.requests import Replaced
from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    Stat,
    Stored,
    UploadChanged,
    UploadMissing,
    UploadState,
)
from moorage.storage.keys import check_key
from moorage.storage.object_store.helpers import below, find, new_session, slices
from moorage.storage.object_store.legacy_uploads import legacy_state
from moorage.storage.object_store.stale_uploads import abandoned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.azure.requests import AzureRequests
    from moorage.storage.azure.store import AzureStore
    from moorage.storage.driver import Appender, Reader

__all__ = ["AzureUploads"]

_REMEMBERED: Final = 1000


class AzureUploads:
    """See `driver.Uploads`."""

    def __init__(self, store: AzureStore) -> None:
        self._store = store
        self._published: LRUCache[Key, list[Key]] = LRUCache(_REMEMBERED)

    async def begin(self, home: Key) -> UploadState:
        check_key(home)
        log = BlockLog(datetime.now(UTC).replace(microsecond=0))
        place = await self._store.primary()
        version = await run_to_completion(place.put_blob(_blocks(home), b"", metadata=log.metadata()))
        return replace(log, version=version).upload_state()

    async def state(self, home: Key) -> UploadState:
        check_key(home)
        place = await self._store.primary()
        try:
            found = await place.whole(_blocks(home))
        except KeyMissing:
            return await legacy_state(self._store, home, lambda: self._legacy_size(home))
        if not found.metadata:  # another request is discarding it
            raise UploadMissing(home)
        return decode(place.describe(_blocks(home)), found).upload_state()

    async def _legacy_size(self, home: Key) -> int | None:
        stat = await find(self._store, below(home, "data"))
        return None if stat is None else stat.size

    async def _log(self, home: Key, state: UploadState) -> BlockLog:
        """Return the log of `state`: the one it holds, else read, or adopted.  Raises UploadMissing,
        UploadChanged.
        """
        if isinstance(state.held, BlockLog) and state.held.size == state.offset:
            return state.held
        found = await self.state(home)
        if found.offset != state.offset:
            raise UploadChanged(f"{home}: its offset is {found.offset}, not {state.offset}")
        if not isinstance(found.held, BlockLog):
            return await run_to_completion(self._adopt(home, found))
        return found.held

    async def _adopt(self, home: Key, found: UploadState) -> BlockLog:
        """Continue an upload of CNCF Distribution: copy its bytes through the registry, block by block."""
        place, key = await self._store.primary(), _blocks(home)
        log = BlockLog(found.started, found.offset, notes=found.notes, dated=True, adopted=True)
        session, blocks = new_session(), list[Block]()
        try:
            for start in range(0, found.offset, place.options.chunk):
                stop = min(start + place.options.chunk, found.offset)
                async with self._store.stream(Key(f"{home}/data"), start=start, stop=stop) as reader:
                    data = b"".join([piece async for piece in reader])
                if len(data) != stop - start:
                    raise UploadChanged(f"{home}: fewer than {found.offset} bytes are left")
                blocks.append(Block(block_name(session, len(blocks)), len(data)))
                await stage(place, key, blocks[-1].name, data)
            version = await commit(place, key, [block.name for block in blocks], ABSENT, log.metadata())
        except Conflict as error:
            raise UploadChanged(f"{home}: another request has taken it over") from error
        except KeyMissing as error:
            raise UploadMissing(home) from error
        except BaseException:
            await drop(place, key)
            raise
        return replace(log, version=version, blocks=tuple(blocks))

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        check_key(home)
        place = await self._store.primary()
        log = await self._with_blocks(home, place, await self._log(home, state))
        appender = AzureAppender(place, home, log)
        try:
            yield appender
        finally:
            await run_to_completion(appender.leave())

    async def _with_blocks(self, home: Key, place: AzureRequests, log: BlockLog) -> BlockLog:
        if log.blocks is not None:
            return log
        try:
            blocks = await blocks_of(place, _blocks(home))
        except KeyMissing as error:
            raise UploadMissing(home) from error
        size = sum(block.size for block in blocks)
        if blocks and size != log.size:
            raise UploadChanged(f"{home}: its offset is {size}, not {log.size}")
        return replace(log, blocks=tuple(blocks))

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        check_key(home)
        log = await self._log(home, state)
        yield _UploadReader(await self._store.primary(), home, log)

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        check_key(home)
        check_key(to)
        place = await self._store.primary()
        log = await self._log(home, state)
        if log.sealed is not None or not log.size:
            stored = await run_to_completion(_put(place, to, log.sealed or b""))
        else:
            stored = await run_to_completion(copy(place, _blocks(home), log.version, log.size, place, to))
        if not log.adopted:
            names = ["blocks", "startedat"] if log.dated else ["blocks"]
            self._published.put(home, [Key(f"{home}/{name}") for name in names])
        return stored

    async def discard(self, home: Key) -> None:
        check_key(home)
        known = self._published.drop(home)
        await run_to_completion(self._clear(home) if known is None else self._store.delete(known))

    async def _clear(self, home: Key) -> None:
        place, blocks, started = await self._store.primary(), _blocks(home), Key(f"{home}/startedat")
        found = [stat.key async for page in self._store.walk(home) for stat in page]
        if blocks in found:
            await place.put_blob(blocks, b"")
        if found:
            await self._store.delete(sorted(found, key=lambda key: (key != blocks, key != started, key)))

    def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        return abandoned(self._store, under, before)

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        """See `driver.Uploads`.  Blobs written in one go only: blocks of uploads are removed with them, or after a
        week.
        """
        check_key(under)
        return await self._store.unfinished(before, abort=not dry_run)


class _UploadReader:
    """Reader of one state of an upload."""

    def __init__(self, place: AzureRequests, home: Key, log: BlockLog) -> None:
        self._place = place
        self._home = home
        self._log = log
        self.stat = Stat(home, log.size, log.started)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        log = self._log
        if log.sealed is not None:
            for piece in slices(log.sealed):
                yield piece
        elif log.size:
            try:
                reader = await self._place.reader(_blocks(self._home), 0, log.size, version=log.version)
                async for piece in reader:
                    yield piece
            except KeyMissing as error:
                raise UploadMissing(self._home) from error
            except Replaced as error:
                raise UploadChanged(f"{self._home}: another request has extended it") from error


async def _put(place: AzureRequests, to: Key, data: bytes) -> Stored:
    """Write a small blob at its final key; an existing one of that size is kept, for its readers."""
    try:
        await place.put_blob(to, data, ABSENT)
    except Conflict:
        try:
            if (await place.whole(to)).size == len(data):
                return Stored.KEPT
        except KeyMissing:
            pass  # an unfinished copy, or just deleted
        await place.put_blob(to, data)
    return Stored.WRITTEN


def _blocks(home: Key) -> Key:
    return Key(f"{home}/blocks")
