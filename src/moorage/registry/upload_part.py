"""One request's part of an upload: chunks are gathered into batches, hashed and written, and kept by checkpoints.

While one batch is hashed and written by threads, both without the GIL, the next is received: two batches and a
chunk are in memory at most, and a slow disk slows the client down, not the process.  Chunks are not joined.

Above: `uploads.py`.  Below: `upload_hashes.py`, `upload_errors.py`, `storage/driver.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from moorage.errors import BlobUploadUnknown, DigestInvalid, RegistryError
from moorage.registry import layout
from moorage.registry.interface import UNKNOWN_CALLER, Caller, Uploaded, UploadStatus
from moorage.registry.upload_errors import upload_errors
from moorage.registry.upload_hashes import NOTED_FROM_BYTES, notes_of
from moorage.storage.driver import StorageError, UploadChanged, UploadMissing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from moorage.registry.upload_hashes import Hashers, UploadHashes
    from moorage.storage.driver import Appender, Key, UploadState
    from moorage.types import Digest, RepoName

__all__ = ["StoredPart", "UploadsOfPart"]

_CHECKPOINT_BYTES: Final = 256 << 20
_CHECKPOINT_S: Final = 15.0
_log: Final = structlog.get_logger("moorage.registry")


class UploadsOfPart(Protocol):
    """Operations of the upload and of the process, which `uploads.StoredUploads` has."""

    @property
    def now(self) -> float:
        """Return the time in seconds, from any start."""

    @property
    def batch_bytes(self) -> int:
        """Return the number of bytes that a request gathers before a write."""

    @property
    def hashes(self) -> UploadHashes: ...

    def sending(self) -> AbstractContextManager[None]:
        """Count the request as one that shares the memory for batches."""

    def status_of(self, name: RepoName, uuid: str, state: UploadState) -> UploadStatus:
        """Return the status with the token for the next request."""

    def append(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Appender]:
        """Claim the upload; see `Uploads.append` of the driver."""

    async def publish(self, name: RepoName, uuid: str, state: UploadState, digest: Digest) -> Uploaded:
        """Publish the bytes as a blob, link it, and remove the upload."""

    async def discard_quietly(self, home: Key) -> None:
        """Discard an upload that no client can continue; errors are logged."""


class StoredPart:
    """See `interface.UploadPart`.

    The upload is claimed with the first byte, so a closing PUT without a body costs no lock of its own.
    `hashers` are the hashes of everything up to here; an algorithm that is not in it cannot be continued and
    is computed by reading the stored bytes when `finish` needs it.
    """

    def __init__(
        self, uploads: UploadsOfPart, name: RepoName, uuid: str, state: UploadState, hashers: Hashers
    ) -> None:
        self._uploads = uploads
        self._name = name
        self._uuid = uuid
        self._home = layout.upload_home(name, uuid)
        self._state = state
        self._hashers = hashers
        self._stack = AsyncExitStack()
        self._batches: _Batches | None = None
        self._checked_at = uploads.now
        self._broken = False

    @property
    def claimed(self) -> bool:
        """Return whether there are bytes to keep and a claim to give back."""
        return self._batches is not None

    async def write(self, chunk: bytes | Sequence[bytes]) -> None:
        batches = self._batches or await self._claim()
        batches.gather(chunk)
        if batches.gathered >= self._uploads.batch_bytes:
            with self._translated():
                await batches.flush()
                if self._is_due(batches):
                    await self._checkpoint(batches)

    async def commit(self) -> UploadStatus:
        # An empty chunk is refused as well while another request is writing.
        batches = self._batches or await self._claim()
        with self._translated():
            await self._checkpoint(batches)
        return self._uploads.status_of(self._name, self._uuid, self._state)

    async def finish(self, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Uploaded:
        del caller
        with self._translated():
            if self._batches is not None:
                self._state = await self._batches.seal(self._state)
            hasher = self._hashers.get(digest.algorithm)
            if hasher is None:
                try:
                    hasher = await self._uploads.hashes.compute(self._home, self._state, digest.algorithm)
                except (UploadMissing, UploadChanged) as error:
                    raise BlobUploadUnknown(self._uuid) from error
            await self._close()
            if (actual := hasher.hexdigest()) != digest.hex:
                await self._uploads.discard_quietly(self._home)
                raise DigestInvalid(f"the content is {digest.algorithm}:{actual}, not {digest}")
            return await self._uploads.publish(self._name, self._uuid, self._state, digest)

    async def leave(self) -> None:
        """Keep the bytes that arrived, for any reason that ended the request.

        After a failure of the storage, which has been logged, the last checkpoint is valid; bytes beyond it are
        dropped here, or by the next writer.
        """
        if self._broken:
            try:
                await self._close()
            except StorageError as error:
                _log.debug("leaving an upload after a failure failed as well", upload=self._home, cause=str(error))
            return
        with upload_errors(self._uuid):
            try:
                if self._batches is not None:
                    await self._checkpoint(self._batches)
                self._uploads.hashes.keep(self._home, self._state, self._hashers)
            finally:
                await self._close()

    async def _claim(self) -> _Batches:
        status = partial(self._uploads.status_of, self._name, self._uuid, self._state)
        with upload_errors(self._uuid, status):
            if not self._hashers and self._state.offset < NOTED_FROM_BYTES:
                self._hashers["sha256"] = await self._uploads.hashes.compute(self._home, self._state, "sha256")
            appender = await self._stack.enter_async_context(self._uploads.append(self._home, self._state))
        self._stack.enter_context(self._uploads.sending())
        self._batches = _Batches(appender, self._hashers, self._state.offset)
        return self._batches

    async def _close(self) -> None:
        if self._batches is not None:
            self._batches.release()
        self._batches = None
        await self._stack.aclose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """As `upload_errors`; after a failure there is no further checkpoint."""
        try:
            with upload_errors(self._uuid):
                yield
        except RegistryError:
            self._broken = True
            raise

    def _is_due(self, batches: _Batches) -> bool:
        grown = batches.written - self._state.offset
        return grown >= _CHECKPOINT_BYTES or (grown > 0 and self._uploads.now - self._checked_at >= _CHECKPOINT_S)

    async def _checkpoint(self, batches: _Batches) -> None:
        self._state = await batches.checkpoint(self._state)
        self._checked_at = self._uploads.now


class _Batches:
    """Chunks of one request on their way to the appender.  `gathered` bytes wait, `written` are in the upload."""

    def __init__(self, appender: Appender, hashers: Hashers, offset: int) -> None:
        self._appender = appender
        self._hashers = hashers
        self._batch: list[bytes] = []
        self._flushing: asyncio.Task[None] | None = None
        self.gathered = 0
        self.written = offset

    def gather(self, chunk: bytes | Sequence[bytes]) -> None:
        """Add a chunk, or several, to the batch."""
        if isinstance(chunk, bytes):
            self._batch.append(chunk)
            self.gathered += len(chunk)
        else:
            self._batch += chunk
            self.gathered += sum(map(len, chunk))

    async def flush(self) -> None:
        """Hand the batch to the threads, after the one before it."""
        batch = self._take()
        await self._drain()
        if batch:
            self._flushing = asyncio.ensure_future(self._store(batch))

    async def checkpoint(self, state: UploadState) -> UploadState:
        """Make everything durable, if anything is new since `state`; return the new state.

        Hash states are stored with it where that is worth it; else the last batch is written in the same step.
        """
        await self._drain()
        noted = self.written + self.gathered >= NOTED_FROM_BYTES or bool(state.notes)
        if noted:
            await self.flush()
            await self._drain()
        batch = self._take()
        if not batch and self.written == state.offset:
            return state
        notes = notes_of(self._hashers) if noted else ()
        state = await self._appender.checkpoint(notes, batch, self._hash)
        self.written = state.offset
        return state

    async def seal(self, state: UploadState) -> UploadState:
        """Make everything ready to be published; without hash states, since that ends the upload."""
        await self._drain()
        batch = self._take()
        if batch or self.written != state.offset:
            state = await self._appender.seal(batch, self._hash)
            self.written = state.offset
        return state

    def release(self) -> None:
        """Drop the last task; one that failed refers to this object by the frames of its exception."""
        self._flushing = None

    def _take(self) -> list[bytes]:
        batch, self._batch = self._batch, []
        self.gathered = 0
        return batch

    async def _drain(self) -> None:
        if self._flushing is not None:
            await asyncio.shield(self._flushing)
            self._flushing = None

    async def _store(self, batch: list[bytes]) -> None:
        await self._appender.write(batch, self._hash)
        self.written += sum(map(len, batch))

    def _hash(self, chunks: Sequence[bytes]) -> None:
        for hasher in self._hashers.values():
            hasher.update(chunks)
