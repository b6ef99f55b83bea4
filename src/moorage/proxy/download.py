"""Download: the bytes of one blob, from an upstream registry into a part of the spool, verified.

    upstream ──► chunks ──► hashed and written, in a thread, while the next are received ──► Fill.advance

A part that another process has left, or a connection that broke, is continued by Range; what is in the file is
hashed first.  The last bytes stay in memory until the digest is verified (`spool.py` has the reason), so a corrupt
answer never completes: the part is removed, and readers get an error or a cut connection.

Above: `fills.py`.  Below: `spool.py`, `fill.py`, `upstreams.py`.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from typing import TYPE_CHECKING, Final

import structlog

from moorage.proxy.counts import BLOB
from moorage.proxy.spool import PartInfo
from moorage.shielding import run_to_completion
from moorage.upstream.errors import UpstreamError, UpstreamInvalid, UpstreamRefused, UpstreamUnreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.proxy.counts import MirrorCounts
    from moorage.proxy.fill import Fill
    from moorage.proxy.spool import Spool, SpoolPart
    from moorage.proxy.upstreams import Place
    from moorage.upstream.client import RemoteBlob

__all__ = ["HELD_BACK_BYTES", "Download"]

HELD_BACK_BYTES: Final = 64 << 10
"""Bytes at the end of a blob that no client gets before its digest is verified."""
_BATCH_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 4
_PAUSES_S: Final = (0.2, 1.0, 3.0)
_RANGE_NOT_SATISFIABLE: Final = 416
_log: Final = structlog.get_logger("moorage.proxy")


class Download:
    """Fills the locked `part` of `fill` from `place`.  `run` ends when the part is complete, or raises.

    Raises UpstreamError and OSError; the part has been removed if nothing of it can be continued.
    """

    def __init__(
        self,
        spool: Spool,
        part: SpoolPart,
        fill: Fill,
        place: Place,
        *,
        counts: MirrorCounts,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spool = spool
        self._part = part
        self._fill = fill
        self._place = place
        self._counts = counts
        self._sleep = sleep
        self._hash = hashlib.new(fill.digest.algorithm)
        self._offset = 0  # bytes in the file, all of them hashed
        self._tail: list[bytes] = []

    async def run(self) -> None:
        try:
            # A cancelled download closes its file, so it waits for the thread that uses it.
            if self._part.size:
                await run_to_completion(asyncio.to_thread(self._restore))
            await self._receive()
            await self._finish()
        except UpstreamInvalid:
            self._spool.remove(self._fill.digest)
            raise
        except UpstreamRefused as error:
            if error.status == _RANGE_NOT_SATISFIABLE:  # the part is longer than the blob: another answer's bytes
                self._spool.remove(self._fill.digest)
            raise
        except UpstreamError:
            if not self._offset:  # else each request for what does not exist would leave a file
                self._spool.remove(self._fill.digest)
            raise

    def _restore(self) -> None:
        """Hash the bytes that another download has left; without their size nothing of them counts."""
        file, digest = self._part.file, self._fill.digest
        info = self._spool.info(digest)
        keep = 0 if info is None else min(self._part.size, max(0, info.size - HELD_BACK_BYTES))
        os.ftruncate(file, keep)
        while self._offset < keep:
            piece = os.pread(file, _READ_BYTES, self._offset)
            self._hash.update(piece)
            self._offset += len(piece)
        if info is not None and keep:
            self._fill.names |= info.names

    async def _receive(self) -> None:
        """Receive everything; a broken connection is continued where it ended."""
        for attempt in range(_ATTEMPTS):
            before = self._offset
            try:
                async with self._place.open_blob(self._fill.digest, start=self._offset) as remote:
                    self._begin(remote)
                    await self._copy(remote)
                    return
            except UpstreamUnreachable as error:
                self._tail = []
                last = attempt == _ATTEMPTS - 1 or (self._fill.size is None and not before)
                if last:
                    raise
                _log.warning(
                    "a download from an upstream registry broke and is continued",
                    upstream=self._place.host, digest=str(self._fill.digest),
                    offset=self._offset, cause=str(error),
                )  # fmt: skip
                await self._sleep(_PAUSES_S[attempt])

    def _begin(self, remote: RemoteBlob) -> None:
        fill = self._fill
        if remote.size is None:
            raise self._invalid(f"sends {fill.digest} without its length")
        if not remote.size and hashlib.new(fill.digest.algorithm).hexdigest() != fill.digest.hex:
            raise self._invalid(f"sends no bytes of {fill.digest}")
        known = self._spool.info(fill.digest) if fill.size is None else PartInfo(fill.size, frozenset())
        if known is not None and known.size != remote.size:
            raise self._invalid(f"sends {remote.size} bytes of {fill.digest}, not {known.size}")
        if fill.size is None:
            self._check_space(remote.size - self._offset)
            self._spool.set_info(fill.digest, PartInfo(remote.size, frozenset(fill.names)))
            fill.begin(self._part.file, remote.size)
            fill.advance(self._offset)

    def _check_space(self, needed: int) -> None:
        """Raise OSError if the disk cannot take the blob, while it can still be passed on instead."""
        found = os.fstatvfs(self._part.file)
        if found.f_blocks and found.f_bavail * found.f_frsize < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def _copy(self, remote: RemoteBlob) -> None:
        """Write the chunks of a response; while one batch is written, the next one is received."""
        assert self._fill.size is not None
        drop = self._offset - remote.start  # of a registry that does not serve ranges
        left = max(0, self._fill.size - HELD_BACK_BYTES) - self._offset
        batches = _Batches(self._write)
        try:
            async for received in remote:
                self._counts.pulled[BLOB] += len(received)
                chunk = received
                if drop:
                    drop, chunk = max(0, drop - len(chunk)), chunk[drop:]
                if len(chunk) > left:
                    self._tail.append(chunk[left:])
                    chunk = chunk[:left]
                left -= len(chunk)
                if chunk:
                    await batches.put(chunk)
        finally:
            await batches.end()

    async def _write(self, chunks: Sequence[bytes]) -> None:
        self._offset = await run_to_completion(asyncio.to_thread(self._write_now, chunks, self._offset))
        self._fill.advance(self._offset)

    def _write_now(self, chunks: Sequence[bytes], offset: int) -> int:
        for chunk in chunks:
            self._hash.update(chunk)
            view = memoryview(chunk)
            while view:
                written = os.pwrite(self._part.file, view, offset)
                offset += written
                view = view[written:]
        return offset

    async def _finish(self) -> None:
        """Verify the digest; only then write the last bytes."""
        digest, size = self._fill.digest, self._fill.size
        tail = b"".join(self._tail)
        if self._offset + len(tail) != size:
            raise self._invalid(f"sent {self._offset + len(tail)} bytes of {digest}, not {size}")
        self._hash.update(tail)
        if self._hash.hexdigest() != digest.hex:
            raise self._invalid(f"sent other bytes than those of {digest}; nothing of them is kept")
        await run_to_completion(asyncio.to_thread(self._write_tail, tail))
        self._fill.advance(size)

    def _invalid(self, message: str) -> UpstreamInvalid:
        return UpstreamInvalid(message, registry=self._place.host)

    def _write_tail(self, tail: bytes) -> None:
        """Write the last bytes in one call: readers in other processes take the full size for verified."""
        while tail:
            written = os.pwrite(self._part.file, tail, self._offset)
            tail, self._offset = tail[written:], self._offset + written


class _Batches:
    """Chunks are written as soon as the write before them has ended: together, if several wait by then.

    So a fast upstream costs few changes of threads, and what a slow one has sent is in the file at once.
    """

    def __init__(self, write: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: list[bytes] = []
        self._size = 0
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def put(self, chunk: bytes) -> None:
        """Hand over a chunk; wait while a whole batch waits.  Raises the error of an earlier write."""
        self._waiting.append(chunk)
        self._size += len(chunk)
        if self._task is not None and self._task.done():
            await self.end()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        while self._size >= _BATCH_BYTES and not self._task.done():
            await self._taken.wait()

    async def _run(self) -> None:
        try:
            while self._waiting:
                chunks, self._waiting, self._size = self._waiting, [], 0
                self._taken.set()
                self._taken = asyncio.Event()
                await self._write(chunks)
        finally:
            self._taken.set()

    async def end(self) -> None:
        """Wait until all chunks are written.  Raises the error of a write."""
        task, self._task = self._task, None
        if task is not None:
            await run_to_completion(_result_of(task))


async def _result_of(task: asyncio.Task[None]) -> None:
    await task
