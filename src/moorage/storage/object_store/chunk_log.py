"""Uploads as logs of chunks, for stores that cannot append to an object.

    HOME/startedat             when it began, as CNCF Distribution writes it, for its purger; from the first
                               checkpoint on: before, there is nothing to purge but the state
    HOME/state                 the chunks of the upload, in order; see `chunk_state.py`
    HOME/parts/SEQ.SESSION     a chunk: `LogState.chunk` bytes, or fewer when it is the last one
    HOME/joining/...           intermediate objects of a publication of more chunks than one join takes

The bytes of an upload are those of the chunks that its state names, then those in the state itself: a tail of
at most `TAIL_BYTES`, so that a small blob is no chunk at all.  An object that the state does not name does not
count.

    append      each full chunk is put while the next one fills: two chunks in memory at most
    checkpoint  the rest is put as a short chunk or into the state; then the state is written, on condition that
                it is still the one the request began with: **this one write is the checkpoint**
    publish     the store joins the chunks to the blob
    discard     all objects are removed, the state first

No bytes are torn or mixed:

* A chunk's name holds SESSION, 64 random bits of the request that wrote it.  No two requests ever write one
  object, so a state, once written, always names exactly the bytes that its writer hashed.
* A crash before the state is written leaves chunks that no state names; after it, the checkpoint.
* Of two requests that began with one state, the second to write the next state finds that it has changed
  (UploadChanged).  Where the store's conditions are not exact, both may succeed; then the last one's state
  remains, whole and with its own hash.  The other's client continues after bytes that are not its own, and is
  refused when the digest is compared.  Published bytes are never a mixture with another hash.
* A short chunk is superseded by one that begins with its bytes (`JoiningStore.any_length` stores keep it) and
  stays as long as the upload: a reader of an older state still finds it.
* A discarded upload has no state, so the condition of a request that still writes to it fails.
* Chunks of a dead request, which no state names, are removed with the home: at once when an upload is cancelled;
  by age, with the purger, when it was finished, since finishing deletes the names it knows.

Unfinished uploads of CNCF Distribution have no `state`; `JoiningStore.legacy_size` finds them, and the first
request that extends or publishes one adopts it as its first chunk.  It does not continue uploads of Moorage.

Above: `driver.py`.  Source: docs/reference/object-storage.md, section 4, with two changes: chunks named for their
writer, because create-only puts are not exact everywhere, and small tails inside the state.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.shielding import run_to_completion
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
from moorage.storage.object_store.chunk_appender import TAIL_BYTES, ChunkAppender
from moorage.storage.object_store.chunk_state import Chunk, LogState, decode
from moorage.storage.object_store.helpers import below, new_session, slices
from moorage.storage.object_store.interface import Source
from moorage.storage.object_store.legacy_uploads import legacy_state
from moorage.storage.object_store.stale_uploads import abandoned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.storage.driver import Appender, Reader
    from moorage.storage.object_store.interface import JoiningStore

__all__ = ["ChunkLog"]

_STATE_LIMIT_BYTES: Final = 64 << 20
"""A terabyte in chunks of 10 MiB has a state of 7 MB."""
_REMEMBERED: Final = 1000


class ChunkLog:
    """See `driver.Uploads`."""

    def __init__(self, store: JoiningStore, *, tail_bytes: int = TAIL_BYTES) -> None:
        self._store = store
        self.tail_bytes = tail_bytes
        self._published: LRUCache[Key, list[Key]] = LRUCache(_REMEMBERED)

    async def begin(self, home: Key) -> UploadState:
        check_key(home)
        started = datetime.now(UTC).replace(microsecond=0)
        log = LogState(started, self._store.chunk, new_session())
        version = await run_to_completion(self._store.put(below(home, "state"), [log.encode()]))
        return replace(log, version=version).upload_state()

    async def state(self, home: Key) -> UploadState:
        check_key(home)
        try:
            content = await self._store.get(below(home, "state"), limit=_STATE_LIMIT_BYTES)
        except KeyMissing:
            return await legacy_state(self._store, home, lambda: self._store.legacy_size(below(home, "data")))
        return decode(self._store.describe(f"{home}/state"), content).upload_state()

    async def log(self, home: Key, state: UploadState) -> LogState:
        """Return the log of `state`: the one it holds, else read, or adopted.  Raises UploadMissing,
        UploadChanged.
        """
        if isinstance(state.held, LogState) and state.held.offset == state.offset:
            return state.held
        found = await self.state(home)
        if found.offset != state.offset:
            raise UploadChanged(f"{home}: its offset is {found.offset}, not {state.offset}")
        if not isinstance(found.held, LogState):
            return await run_to_completion(self._adopt(home, found))
        return found.held

    async def _adopt(self, home: Key, found: UploadState) -> LogState:
        """Continue an upload of CNCF Distribution: its bytes are the first chunk."""
        source = await self._store.adopt(below(home, "data"))
        chunks = () if source is None else (Chunk("data", source.size, source.version),)
        log = LogState(
            found.started, self._store.chunk, new_session(), chunks, notes=found.notes, dated=True, adopted=True
        )
        if log.offset != found.offset:
            raise UploadChanged(f"{home}: {log.offset} bytes were left there, not {found.offset}")
        try:
            version = await self._store.put(below(home, "state"), [log.encode()], ABSENT)
        except Conflict as error:
            raise UploadChanged(f"{home}: another request has taken it over") from error
        return replace(log, version=version)

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        check_key(home)
        self._published.drop(home)  # it may become longer than the published one
        log = await self.log(home, state)
        appender = ChunkAppender(self._store, home, log, tail_bytes=self.tail_bytes)
        try:
            yield appender
        finally:
            await run_to_completion(appender.leave())

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        check_key(home)
        log = await self.log(home, state)
        yield ChunkReader(self._store, home, log)

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        check_key(home)
        check_key(to)
        log = await self.log(home, state)
        if log.chunks:
            sources = [Source(below(home, chunk.name), chunk.size, chunk.version) for chunk in log.chunks]
            stored = await self._store.join(to, sources, log.tail, below(home, "joining"))
        else:
            # Over an existing object: the key names these very bytes, and a look costs as much as a write.
            await run_to_completion(self._store.put(to, [log.tail]))
            stored = Stored.WRITTEN
        if log.adopted:
            return stored
        self._published.put(home, [below(home, name) for name in log.names])
        return stored

    async def discard(self, home: Key) -> None:
        check_key(home)
        known = self._published.drop(home)
        await run_to_completion(self._clear(home) if known is None else self._store.delete(known))

    async def _clear(self, home: Key) -> None:
        state, started = below(home, "state"), below(home, "startedat")
        found = [stat.key async for page in self._store.walk(home) for stat in page]
        if found:
            await self._store.delete(sorted(found, key=lambda key: (key not in {state, started}, key)))
        if state not in found:
            await self._store.abort(below(home, "data"))

    def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        return abandoned(self._store, under, before)

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        check_key(under)
        return await self._store.unfinished(under, before, abort=not dry_run)


class ChunkReader:
    """Reader of a log, chunk by chunk."""

    def __init__(self, store: JoiningStore, home: Key, log: LogState) -> None:
        self._store = store
        self._home = home
        self._log = log
        self.stat = Stat(home, log.offset, log.started)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._log.chunks:
            try:
                async with self._store.stream(below(self._home, chunk.name)) as reader:
                    if reader.stat.size != chunk.size:
                        raise UploadChanged(
                            f"{self._home}/{chunk.name}: {reader.stat.size} bytes, not {chunk.size}"
                        )
                    async for piece in reader:
                        yield piece
            except KeyMissing as error:
                raise UploadMissing(self._home) from error
        for piece in slices(self._log.tail):
            yield piece
