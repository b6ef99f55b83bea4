"""Base class of appenders to object stores: pieces are sent while the next one fills, a checkpoint writes a state.

    write       bytes fill a buffer; each full piece is sent while the next one fills (`chunk_buffer.py`)
    checkpoint  waits for the piece on its way, then writes the upload's new state, on the condition that it is
                still the one this request began with
    leave       removes what was sent and is named by no state

A subclass sends a piece and writes a state; here are the order of these steps, the start time beside the first
state, and the meaning of a condition that did not hold.

Above: `chunk_appender.py` (S3, Google), `storage/azure/appender.py`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from moorage.shielding import run_to_completion, run_with_thread, wait_settled
from moorage.storage.driver import Conflict, Key, StorageError, StorageUnavailable, UploadChanged, UploadMissing
from moorage.storage.object_store.chunk_buffer import ChunkBuffer
from moorage.storage.start_times import text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from datetime import datetime

    from moorage.storage.driver import Note, UploadState, Version

__all__ = ["BufferedAppender"]

_log: Final = structlog.get_logger("moorage.storage")
_T = TypeVar("_T")


class _Store(Protocol):
    async def put(self, key: Key, data: Sequence[bytes]) -> Version: ...

    def describe(self, key: str) -> str: ...


class BufferedAppender(ABC):
    """See `driver.Appender`.  `piece_bytes` are sent at a time; `buffered` are the upload's last bytes, if they
    must be sent again.
    """

    left_behind = "chunks of an upload were left behind"
    """Log message when `leave` fails."""

    def __init__(
        self, store: _Store, home: Key, started: datetime, *, piece_bytes: int, buffered: Iterable[bytes] = ()
    ) -> None:
        self._home = home
        self._buffer = ChunkBuffer(piece_bytes, self._send, buffered)
        self._discarded = False
        self._writable = store
        self._started = started
        self._torn = False

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        await run_with_thread(self._add(chunks), chunks, also)

    async def _add(self, chunks: Sequence[bytes]) -> None:
        if not any(chunks):
            return
        self._torn = True  # until the last byte is buffered or on its way
        await self._prepare()
        await self._buffer.add(chunks)
        self._torn = False

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        await self._flush(chunks, also)
        return await run_to_completion(self._checkpoint(tuple(notes)))

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        await self._flush(chunks, also)
        return await run_to_completion(self._seal())

    async def _flush(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None) -> None:
        await self.write(chunks, also)
        await self._buffer.landed()
        if self._torn:
            raise StorageUnavailable(f"{self._writable.describe(self._home)}: a write before this failed halfway")

    async def _commit(self, write: Callable[[], Awaitable[_T]], *, dated: bool) -> _T:
        """Write a state by `write`, and concurrently, unless it is `dated`, when the upload began.

        Raises UploadMissing, UploadChanged.
        """
        dating = None if dated else asyncio.ensure_future(self._write_start())
        try:
            written = await write()
        except Conflict as error:
            if await self._exists():
                raise UploadChanged(f"{self._home}: another request has extended it") from error
            self._discarded = True
            raise UploadMissing(self._home) from error
        finally:
            if dating is not None:
                await wait_settled(dating)
        if dating is not None:
            dating.result()
        return written

    async def _write_start(self) -> None:
        await self._writable.put(Key(f"{self._home}/startedat"), [text_of(self._started)])

    async def leave(self) -> None:
        """Remove what no state names.  A failure is logged: these objects do not count."""
        await self._buffer.close()
        try:
            await self._remove_unused()
        except StorageError as error:
            _log.warning(self.left_behind, upload=self._home, cause=str(error))

    @abstractmethod
    async def _prepare(self) -> None:
        """Prepare for more bytes; load the last ones, if they cannot stay where they are."""

    @abstractmethod
    async def _send(self, data: list[bytes]) -> None:
        """Send a piece."""

    @abstractmethod
    async def _checkpoint(self, notes: tuple[Note, ...]) -> UploadState:
        """Make all bytes and `notes` durable, by one write of a state through `_commit`."""

    @abstractmethod
    async def _seal(self) -> UploadState:
        """See `driver.Appender.seal`."""

    @abstractmethod
    async def _exists(self) -> bool:
        """Return whether the upload has a state, so was not discarded."""

    @abstractmethod
    async def _remove_unused(self) -> None:
        """Remove what this appender sent and no state names; also the start time, if the upload was discarded."""
