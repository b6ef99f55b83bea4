"""Uploads as logs of chunks, for stores that cannot append to an object.

    HOME/startedat             when it began, as the reference writes it, so that its purger finds the upload;
                               from the first checkpoint on: before there is nothing to purge but the state
    HOME/state                 the truth: which chunks are the upload, in which order; see `chunk_state.py`
    HOME/parts/SEQ.SESSION     a chunk: `LogState.chunk` bytes, or fewer when it is the last one
    HOME/joining/...           intermediate objects of a publication of more chunks than one join takes

The bytes of an upload are those of the chunks that its state names, then those in the state itself: a tail of
at most `_TAIL_BYTES`, so that a small blob is no chunk at all.  An object that the state does not name does not
exist.

    append      each full chunk is put while the next one fills: two chunks in memory at most
    checkpoint  what is left is put as a short chunk or goes into the state; then the state is written, on
                condition that it is still the one the request began with: **this one write is the checkpoint**
    publish     the store joins the chunks to the blob
    discard     all objects go, the state first

Why nothing is torn or mixed:

* A chunk's name holds SESSION, 64 random bits of the request that wrote it.  No two requests ever write one
  object, so a state, once written, always names exactly the bytes that its writer hashed.
* A crash before the state is written leaves chunks that no state names; after it, the checkpoint.
* Of two requests that began with one state, the second to write the next state finds that it has changed
  (UploadChanged).  Where the store's conditions are not exact, both may succeed; then the last one's state stands,
  whole and with its own hash.  The other's client goes on after bytes that are not its own, and is refused when
  the digest is compared.  What is published is never a mixture that anybody has hashed otherwise.
* A short chunk is superseded by one that begins with its bytes (`Objects.any_length` stores keep it) and stays
  as long as the upload: a reader of an older state still finds it.
* A discarded upload has no state, so the condition of whoever still writes to it fails.
* What a dead request left (`parts/` that no state names) is removed with the home: at once when an upload is
  cancelled; by age, with the purger, when it was finished, since finishing deletes the names it knows.

The reference's unfinished uploads have no `state`; `Objects.foreign` tells of them, and the first request that
extends or publishes one adopts it as its first chunk.  The reference does not go on with ours.

Above: `driver.py`.  Source: docs/reference/object-storage.md, section 4, with two changes: chunks named for their
writer, because create-only puts are not exact everywhere, and small tails inside the state.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import LRUCache
from moorage.shielding import run_to_completion, run_with_thread, wait_settled
from moorage.storage.driver import (
    ABSENT,
    Conflict,
    Key,
    KeyMissing,
    Note,
    Stat,
    StorageError,
    StorageUnavailable,
    Stored,
    Unchanged,
    UploadChanged,
    UploadMissing,
    UploadState,
    Version,
)
from moorage.storage.keys import check_key
from moorage.storage.object_store.chunk_buffer import Pieces
from moorage.storage.object_store.chunk_state import Chunk, LogState, decode
from moorage.storage.object_store.interface import Source
from moorage.storage.object_store.stale_uploads import abandoned
from moorage.storage.start_times import started_at, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from moorage.storage.driver import Appender, Reader
    from moorage.storage.object_store.interface import Objects

__all__ = ["ChunkLog"]

_TAIL_BYTES: Final = 1 << 20
"""As many as `registry/uploads.py` hashes again rather than keep a hash state for."""
_STATE_LIMIT_BYTES: Final = 64 << 20
"""A terabyte in chunks of 10 MiB has a state of 7 MB."""
_PIECE_BYTES: Final = 1 << 20
_REMEMBERED: Final = 1000
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)
_log: Final = structlog.get_logger("moorage.storage")


class ChunkLog:
    """See `driver.Uploads`."""

    def __init__(self, objects: Objects, *, tail_bytes: int = _TAIL_BYTES) -> None:
        self.objects, self.tail_bytes = objects, tail_bytes
        self._published: LRUCache[Key, list[Key]] = LRUCache(_REMEMBERED)

    async def begin(self, home: Key) -> UploadState:
        check_key(home)
        started = datetime.now(UTC).replace(microsecond=0)
        log = LogState(started, self.objects.chunk, new_session())
        version = await run_to_completion(self.objects.put(below(home, "state"), [log.encode()]))
        return shown(log, version)

    async def state(self, home: Key) -> UploadState:
        check_key(home)
        try:
            content = await self.objects.get(below(home, "state"), limit=_STATE_LIMIT_BYTES)
        except KeyMissing:
            return await self._foreign_state(home)
        return shown(decode(self.objects.describe(f"{home}/state"), content.data), content.version)

    async def _foreign_state(self, home: Key) -> UploadState:
        """Where the reference left one of its uploads; its hash state is the note, if it kept one there."""
        try:
            text = (await self.objects.get(below(home, "startedat"), limit=_PIECE_BYTES)).data
        except KeyMissing:
            raise UploadMissing(home) from None
        found = await self.objects.foreign(below(home, "data"))
        if found is None:
            raise UploadMissing(home)
        notes: tuple[Note, ...] = ()
        if found.size:
            name = f"hashstates/sha256/{found.size}"
            with suppress(KeyMissing):
                notes = (Note(name, (await self.objects.get(below(home, name), limit=_PIECE_BYTES)).data),)
        return UploadState(found.size, started_at(text) or _LONG_AGO, notes)

    async def log(self, home: Key, state: UploadState) -> tuple[LogState, Version]:
        """What `state` stands for; read, or adopted, unless it is held.  Raises UploadMissing, UploadChanged."""
        if isinstance(state.held, LogState) and state.held.offset == state.offset:
            return state.held, state.version
        found = await self.state(home)
        if found.offset != state.offset:
            raise UploadChanged(f"{home}: its offset is {found.offset}, not {state.offset}")
        if not isinstance(found.held, LogState):
            return await run_to_completion(self._adopt(home, found))
        return found.held, found.version

    async def _adopt(self, home: Key, found: UploadState) -> tuple[LogState, Version]:
        """The reference's upload becomes ours: its bytes are the first chunk."""
        source = await self.objects.adopt(below(home, "data"))
        chunks = () if source is None else (Chunk("data", source.size, source.version),)
        log = LogState(
            found.started, self.objects.chunk, new_session(), chunks, notes=found.notes, dated=True, adopted=True
        )
        if log.offset != found.offset:
            raise UploadChanged(f"{home}: {log.offset} bytes were left there, not {found.offset}")
        try:
            return log, await self.objects.put(below(home, "state"), [log.encode()], ABSENT)
        except Conflict as error:
            raise UploadChanged(f"{home}: another request has taken it over") from error

    @asynccontextmanager
    async def append(self, home: Key, state: UploadState) -> AsyncIterator[Appender]:
        check_key(home)
        self._published.drop(home)  # it may become longer than what was published
        log, version = await self.log(home, state)
        appender = ChunkAppender(self, home, log, version)
        try:
            yield appender
        finally:
            await run_to_completion(appender.leave())

    @asynccontextmanager
    async def read(self, home: Key, state: UploadState) -> AsyncIterator[Reader]:
        check_key(home)
        log, _ = await self.log(home, state)
        yield ChunkReader(self.objects, home, log)

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        check_key(home)
        check_key(to)
        log, _ = await self.log(home, state)
        if log.chunks:
            sources = [Source(below(home, chunk.name), chunk.size, chunk.version) for chunk in log.chunks]
            stored = await self.objects.join(to, sources, log.tail, below(home, "joining"))
        else:
            # Over whatever is there: the key names these very bytes, and looking costs as much as writing.
            await run_to_completion(self.objects.put(to, [log.tail]))
            stored = Stored.WRITTEN
        if log.adopted:
            return stored
        self._published.put(home, [below(home, name) for name in log.names])
        return stored

    async def discard(self, home: Key) -> None:
        check_key(home)
        known = self._published.drop(home)
        await run_to_completion(self._clear(home) if known is None else self.objects.delete(known))

    async def _clear(self, home: Key) -> None:
        state, started = below(home, "state"), below(home, "startedat")
        found = [stat.key async for page in self.objects.walk(home) for stat in page]
        if found:
            await self.objects.delete(sorted(found, key=lambda key: (key not in {state, started}, key)))
        if state not in found:
            await self.objects.abort(below(home, "data"))

    def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        return abandoned(self.objects, under, before)

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        check_key(under)
        return await self.objects.unfinished(under, before, abort=not dry_run)


class ChunkReader:
    """The bytes of a log, chunk by chunk."""

    def __init__(self, objects: Objects, home: Key, log: LogState) -> None:
        self._objects, self._home, self._log = objects, home, log
        self.stat = Stat(home, log.offset, log.started)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._log.chunks:
            try:
                async with self._objects.stream(below(self._home, chunk.name)) as reader:
                    if reader.stat.size != chunk.size:
                        raise UploadChanged(
                            f"{self._home}/{chunk.name}: {reader.stat.size} bytes, not {chunk.size}"
                        )
                    async for piece in reader:
                        yield piece
            except KeyMissing as error:
                raise UploadMissing(self._home) from error
        for start in range(0, len(self._log.tail), _PIECE_BYTES):
            yield self._log.tail[start : start + _PIECE_BYTES]


class ChunkAppender:
    """See `driver.Appender`.  `_log` is the last checkpoint; `_live` are the chunks that the next one will name,
    `_fresh` those that no state names yet, and `_pieces` holds the bytes after all of them.
    """

    def __init__(self, uploads: ChunkLog, home: Key, log: LogState, version: Version) -> None:
        self._uploads, self._objects, self._home = uploads, uploads.objects, home
        self._log, self._version = log, version
        self._live, self._dead = list(log.chunks), list(log.dead)
        self._pieces = Pieces(log.chunk, self._put, [log.tail] if log.tail else [])
        self._short = False  # the last live chunk holds what is held here, too
        self._session = new_session()
        self._sequence = 0
        self._fresh: list[str] = []
        self._loaded = False
        self._torn = False

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        await run_with_thread(self._take(chunks), chunks, also)

    async def _take(self, chunks: Sequence[bytes]) -> None:
        if not any(chunks):
            return
        self._torn = True  # until the last of the bytes is where it belongs
        await self._load()
        if self._short:  # what is held goes on growing; the chunk that holds its beginning is superseded
            self._dead.append(self._live.pop().name)
            self._short = False
        await self._pieces.add(chunks)
        self._torn = False

    async def _load(self) -> None:
        """Before the first byte: read a last chunk that cannot stay where it will be followed by another."""
        if self._loaded:
            return
        self._loaded = True
        if not self._live or self._pieces.length or self._objects.any_length:
            return
        last = self._live[-1]
        if last.size % self._log.chunk == 0 or last.size > self._log.chunk:
            return
        try:
            content = await self._objects.get(below(self._home, last.name), limit=self._log.chunk)
        except KeyMissing as error:
            raise UploadMissing(self._home) from error
        if len(content.data) != last.size or content.version != last.version:
            raise UploadChanged(f"{self._home}/{last.name}: it is not what was written there")
        self._pieces.hold([content.data])
        self._short = True

    async def _put(self, data: list[bytes]) -> None:
        self._sequence += 1
        name = f"parts/{self._sequence:08d}.{self._session}"
        self._fresh.append(name)
        version = await self._objects.put(below(self._home, name), data)
        self._live.append(Chunk(name, sum(map(len, data)), version))

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        await self.write(chunks, also)
        await self._pieces.landed()
        if self._pieces.length > self._uploads.tail_bytes and not self._short:
            await self._pieces.send(keep=not self._objects.any_length)
            await self._pieces.landed()
            self._short = not self._objects.any_length
        log = self._next(notes)
        await run_to_completion(self._write(log))
        return shown(self._log, self._version)

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        await self.write(chunks, also)
        await self._pieces.landed()
        log = self._next(())
        self._fresh.clear()  # they are the blob's now, and cleared with the upload
        return shown(log, self._version)

    def _next(self, notes: Sequence[Note]) -> LogState:
        if self._torn:
            raise StorageUnavailable(f"{self._objects.describe(self._home)}: a write before this failed halfway")
        return replace(
            self._log,
            session=new_session(),
            chunks=tuple(self._live),
            tail=b"" if self._short else self._pieces.joined(),
            dead=tuple(self._dead),
            notes=tuple(notes),
        )

    async def _write(self, log: LogState) -> None:
        """The checkpoint itself.  Until it is known to have failed, nobody removes what it names."""
        key, fresh = below(self._home, "state"), self._fresh
        self._fresh = []
        dating = None if self._log.dated else asyncio.ensure_future(self._date())
        log = replace(log, dated=True)
        try:
            version = await self._objects.put(key, [log.encode()], Unchanged(self._version))
        except Conflict as error:
            self._fresh = fresh
            try:
                await self._objects.head(key)
            except KeyMissing:
                self._fresh.append("startedat")
                raise UploadMissing(self._home) from error
            raise UploadChanged(f"{self._home}: another request has extended it") from error
        finally:
            if dating is not None:
                await wait_settled(dating)
        if dating is not None:
            dating.result()
        self._log, self._version = log, version

    async def _date(self) -> None:
        await self._objects.put(below(self._home, "startedat"), [text_of(self._log.started)])

    async def leave(self) -> None:
        """Remove what no state names.  Failing at it is no failure of the request: they count for nothing."""
        await self._pieces.close()
        if self._fresh:
            try:
                await self._objects.delete([below(self._home, name) for name in self._fresh])
            except StorageError as error:
                _log.warning("chunks of an upload were left behind", upload=self._home, cause=str(error))


def new_session() -> str:
    return secrets.token_hex(8)


def below(home: Key, name: str) -> Key:
    return Key(f"{home}/{name}")


def shown(log: LogState, version: Version) -> UploadState:
    return UploadState(log.offset, log.started, log.notes, version, held=log)
