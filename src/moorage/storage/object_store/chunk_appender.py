"""One request's part of an upload as a log of chunks; `chunk_log.py` explains the format and why it is safe.

Above: `chunk_log.py`.  Below: `appender.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import KeyMissing, Unchanged, UploadChanged, UploadMissing
from moorage.storage.object_store.appender import BufferedAppender
from moorage.storage.object_store.chunk_state import Chunk, LogState
from moorage.storage.object_store.helpers import below, find, new_session

if TYPE_CHECKING:
    from moorage.storage.driver import Key, Note, UploadState, Version
    from moorage.storage.object_store.interface import JoiningStore

__all__ = ["TAIL_BYTES", "ChunkAppender"]

TAIL_BYTES: Final = 1 << 20
"""The most bytes that are kept in a state: as many as `registry/uploads.py` hashes again without a hash state."""


class ChunkAppender(BufferedAppender):
    """See `driver.Appender`.  `_log` is the last checkpoint; `_live` are the chunks that the next one will name,
    `_fresh` those that no state names yet; the buffer holds the bytes after all of them.
    """

    def __init__(self, store: JoiningStore, home: Key, log: LogState, *, tail_bytes: int) -> None:
        tail = [log.tail] if log.tail else []
        super().__init__(store, home, log.started, piece_bytes=log.chunk, buffered=tail)
        self._store = store
        self._tail_bytes = tail_bytes
        self._log = log
        self._live = list(log.chunks)
        self._dead = list(log.dead)
        self._short = False  # the last live chunk has the same bytes as the buffer
        self._session = new_session()
        self._sequence = 0
        self._fresh: list[str] = []
        self._loaded = False

    async def _prepare(self) -> None:
        await self._load()
        if self._short:  # the buffer will grow; the chunk that holds its beginning is superseded
            self._dead.append(self._live.pop().name)
            self._short = False

    async def _load(self) -> None:
        """Read a last chunk that cannot stay where it is when another follows."""
        if self._loaded:
            return
        self._loaded = True
        if not self._live or self._buffer.length or self._store.any_length:
            return
        last = self._live[-1]
        if last.size % self._log.chunk == 0 or last.size > self._log.chunk:
            return
        try:
            content = await self._store.get(below(self._home, last.name), limit=self._log.chunk)
        except KeyMissing as error:
            raise UploadMissing(self._home) from error
        if len(content.data) != last.size or content.version != last.version:
            raise UploadChanged(f"{self._home}/{last.name}: it is not what was written there")
        self._buffer.hold([content.data])
        self._short = True

    async def _send(self, data: list[bytes]) -> None:
        self._sequence += 1
        name = f"parts/{self._sequence:08d}.{self._session}"
        self._fresh.append(name)
        version = await self._store.put(below(self._home, name), data)
        self._live.append(Chunk(name, sum(map(len, data)), version))

    async def _checkpoint(self, notes: tuple[Note, ...]) -> UploadState:
        if self._buffer.length > self._tail_bytes and not self._short:
            await self._buffer.send(keep=not self._store.any_length)
            await self._buffer.landed()
            self._short = not self._store.any_length
        log = replace(self._next(notes), dated=True)
        # Until the write is known to have failed, the state may name the chunks.
        fresh = self._fresh
        self._fresh = []
        try:
            version = await self._commit(lambda: self._put_state(log), dated=self._log.dated)
        except (UploadChanged, UploadMissing):
            self._fresh = fresh
            raise
        self._log = replace(log, version=version)
        return self._log.upload_state()

    async def _put_state(self, log: LogState) -> Version:
        return await self._store.put(below(self._home, "state"), [log.encode()], Unchanged(log.version))

    async def _seal(self) -> UploadState:
        log = self._next(())
        self._fresh.clear()  # they are joined to the blob, and removed with the upload
        return log.upload_state()

    def _next(self, notes: tuple[Note, ...]) -> LogState:
        return replace(
            self._log,
            session=new_session(),
            chunks=tuple(self._live),
            tail=b"" if self._short else self._buffer.joined(),
            dead=tuple(self._dead),
            notes=notes,
        )

    async def _exists(self) -> bool:
        return await find(self._store, below(self._home, "state")) is not None

    async def _remove_unused(self) -> None:
        names = [*self._fresh, "startedat"] if self._discarded else self._fresh
        if names:
            await self._store.delete([below(self._home, name) for name in names])
