"""Fill: one blob on its way from an upstream registry into the store, as the requests of one process see it.

    Download (this process)  ──► advance ─┐                        ┌──► FillReader of a request
    other process, polled    ──► advance ─┴──► Fill ── grown ──────┴──► FillReader of another one

Readers follow at their own speed, from the file that the spool holds: the download never waits for them, and a
slow one costs an open file.  The size is known when the upstream registry has answered; the end of the file can be
read when the digest has been verified.  A fill whose readers have all left continues for a bounded time.

Above: `fills.py`, `blobs.py`.  Below: `spool.py`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from io import FileIO
from typing import TYPE_CHECKING, Final

from moorage.errors import UpstreamFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.errors import RegistryError
    from moorage.proxy.spool import SpoolUnusable
    from moorage.types import Digest, RepoName

__all__ = ["Fill", "FillReader"]

_PIECE_BYTES: Final = 1 << 20
_LEAST_PIECE_BYTES: Final = 256 << 10
"""Smaller pieces, after the first, wait a moment for more: each costs a change of threads (100 us)."""
_GATHER_S: Final = 0.01


class Fill:
    """State of the transfer of one blob.

    `size` is None until the upstream registry has reported it; `available` are the bytes that can be read; `file`
    is the part in the spool, None before and after the transfer.  `origin`: the repository whose upstream registry
    is asked; an error is one of that.  `names`: repositories that get a link to the blob at its end, and `linked`
    those that have it.  `stored`: the blob is in the store.
    """

    def __init__(self, digest: Digest, name: RepoName) -> None:
        self.digest: Final = digest
        self.origin: Final = name
        self.names = {name}
        self.size: int | None = None
        self.available = 0
        self.file: int | None = None
        self.error: RegistryError | SpoolUnusable | None = None
        self.linked: set[RepoName] = set()
        self.stored = False
        self._waiting: list[asyncio.Future[None]] = []
        self._readers = 0
        self._read = asyncio.Event()
        self._unread = asyncio.Event()
        self._unread.set()

    @property
    def complete(self) -> bool:
        """Return whether all bytes are there; their digest has been verified then."""
        return self.size is not None and self.available == self.size

    def begin(self, file: int, size: int) -> None:
        """Set the descriptor of the part, which the fill does not own, and the size of the blob."""
        self.file = file
        self.size = size
        self._wake()

    def advance(self, available: int) -> None:
        """Record that the first `available` bytes are in the file."""
        if available > self.available:
            self.available = available
            self._wake()

    def fail(self, error: RegistryError | SpoolUnusable) -> None:
        """End the fill for all readers that still need bytes."""
        if self.error is None and not self.complete and not self.stored:
            self.error = error
        self._wake()

    def reader_entered(self) -> None:
        self._readers += 1
        self._read.set()
        self._unread.clear()

    def reader_left(self) -> None:
        self._readers -= 1
        if not self._readers:
            self._read.clear()
            self._unread.set()

    async def unread(self, seconds: float) -> None:
        """Return when nothing has read the fill for so many seconds, and bytes are missing: storing them has no
        readers.
        """
        while True:
            await self._unread.wait()
            try:
                async with asyncio.timeout(seconds):
                    await self._read.wait()
            except TimeoutError:
                if not self.complete:
                    return
                await self._read.wait()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self) -> None:
        """Wait for the next change.  Raises the error of the fill."""
        self._check()
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
        self._check()

    def _check(self) -> None:
        if self.error is not None:  # without the traceback of another reader
            raise self.error.with_traceback(None)

    async def sized(self) -> int | None:
        """Return the size, when it is known; None if the blob is in the store already.  Raises RegistryError."""
        while self.size is None:
            if self.stored:
                return None
            await self.changed()
        self._check()
        return self.size

    def open(self) -> FillReader:
        """Return a reader of the file, while there is one.  Raises UpstreamFailed."""
        if self.file is None:
            raise UpstreamFailed(f"the transfer of {self.digest} has ended; request it again")
        return FillReader(self, os.dup(self.file))


class FillReader:
    """See `interface.GrowingFile`: the bytes of one fill, for one request."""

    def __init__(self, fill: Fill, file: int) -> None:
        self.file = FileIO(file, "rb")
        self._fill = fill
        fill.reader_entered()

    async def grown(self, offset: int, stop: int) -> int:
        """See `interface.GrowingFile.grown`."""
        fill = self._fill
        while fill.available <= offset:
            await fill.changed()
        if offset and fill.available < min(stop, offset + _LEAST_PIECE_BYTES) and not fill.complete:
            await asyncio.sleep(_GATHER_S)
        return min(fill.available, stop)

    def close(self) -> None:
        """Close the file; the transfer continues."""
        if not self.file.closed:
            self.file.close()
            self._fill.reader_left()

    @asynccontextmanager
    async def stream(self, span: range) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a part of the blob, for servers that cannot send files."""
        try:
            pieces = self._pieces(span)
            yield pieces
        finally:
            self.close()

    async def _pieces(self, span: range) -> AsyncIterator[bytes]:
        offset = span.start
        while offset < span.stop:
            end = await self.grown(offset, span.stop)
            piece = await asyncio.to_thread(os.pread, self.file.fileno(), min(end - offset, _PIECE_BYTES), offset)
            if not piece:
                raise UpstreamFailed(f"the file of {self._fill.digest} was cut")
            offset += len(piece)
            yield piece

    async def whole(self) -> bytes:
        """Return all bytes of a small blob, when their digest has been verified."""
        fill = self._fill
        size = await fill.sized()
        assert size is not None
        while not fill.complete:
            await fill.changed()
        return os.pread(self.file.fileno(), size, 0)
