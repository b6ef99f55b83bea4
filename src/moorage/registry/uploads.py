"""Uploads of blobs: hashed once, while they are written, by the process that has the request.

    start ──► extend (PATCH, any number, any process) ──► extend + finish (PUT) ──► blob + link
                 │ each leaves a checkpoint: bytes durable, hash state beside them
                 └── cancel, or purged by age

An upload's bytes pass through once (`upload_part.py`).  Handing over a batch costs about 70 us, so a batch is 1
MiB while up to eight requests send, and less for each when more do: all batches of a process have 16 MiB until 32
requests send at once, from then on half a MiB per request.

State after a crash, step by step of `finish` (its order keeps invariant 1 of ARCHITECTURE.md):

    before it is sealed        the upload at its last checkpoint; the client continues from there
    after it is sealed         the same, or the upload whole; the client continues, or repeats the PUT
    after publish              a blob without a link: invisible, to be collected; the client uploads again
    after the link             a finished blob, and an upload home without data for the purger
    after discard              nothing

Beside a garbage collection `finish` waits while the digest is being removed, and refuses if the bytes are gone
when the link is written, which takes a process that was stopped for the whole of a run (`collection_gate.py`).

A disconnect of the client, a timeout and a cancellation end in a checkpoint too: the bytes that arrived are kept.

Below: `upload_part.py`, `upload_hashes.py`, `upload_token.py`, `blob_store.py`, `links.py`, `collection_gate.py`.
Beside: `purge.py`.
Source: distribution-spec 1.1 "Pushing a blob in chunks"; docs/reference/http-api.md,
section 7.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import BlobUploadUnknown, RangeInvalid, Unavailable
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.collection_gate import ATTEMPTS, CollectionGate
from moorage.registry.interface import Uploaded, UploadStatus
from moorage.registry.links import LAYER, Links
from moorage.registry.storage_errors import refusing
from moorage.registry.upload_errors import upload_errors
from moorage.registry.upload_hashes import UploadHashes, fresh, notes_of
from moorage.registry.upload_part import StoredPart
from moorage.registry.upload_token import UploadToken, offset_of
from moorage.shielding import run_to_completion
from moorage.storage.driver import StorageError, UploadBusy, UploadChanged, UploadMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from moorage.registry.interface import UploadPart
    from moorage.storage.driver import Appender, Driver, Key, UploadState
    from moorage.types import Digest, RepoName

__all__ = ["StoredUploads", "new_upload_id"]

_BATCH_BYTES: Final = 1 << 20
_LEAST_BATCH_BYTES: Final = 256 << 10
_BATCHES_BYTES: Final = 8 << 20
"""Gathered by all requests that are sending.  As much again is being stored."""
_COLLECTED: Final = "garbage collection removed {} before the upload was finished; upload it again"
_log: Final = structlog.get_logger("moorage.registry")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def new_upload_id() -> str:
    """Return a UUID of version 7 (RFC 9562): sorted by time in a listing, as those of Distribution since 3.1."""
    number = int.from_bytes(os.urandom(16))
    number = number & ((1 << 80) - 1) | (time.time_ns() // 1_000_000 & ((1 << 48) - 1)) << 80
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(3 << 62) | 2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class StoredUploads:
    """See `interface.Uploads`.  `secret` signs the tokens; every process that may get the next request has it."""

    def __init__(
        self,
        driver: Driver,
        secret: bytes,
        *,
        clock: Callable[[], float] = time.monotonic,
        store: BlobStore | None = None,
        links: Links | None = None,
        gate: CollectionGate | None = None,
        processors: int = 1,
    ) -> None:
        self._driver = driver
        self._secret = secret
        self._clock = clock
        self._blobs = BlobStore(driver) if store is None else store
        self._links = Links(driver) if links is None else links
        self._gate = CollectionGate(driver, self._blobs, self._links) if gate is None else gate
        self.hashes = UploadHashes(driver.uploads, threads=max(4, 2 * processors))
        self._sending = 0  # requests that have written something and not ended

    async def start(
        self, name: RepoName, *, algorithm: str = "sha256", digest: Digest | None = None
    ) -> UploadStatus:
        del digest
        uuid = new_upload_id()
        home = layout.upload_home(name, uuid)
        with refusing():
            state = await self._driver.uploads.begin(home)
            if algorithm != "sha256":
                # The hint outlives this request as a hash state of nothing, which `UploadHashes.restore` finds.
                try:
                    async with self._driver.uploads.append(home, state) as appender:
                        state = await appender.checkpoint(notes_of(fresh("sha256", algorithm)))
                except StorageError:
                    await self.discard_quietly(home)
                    raise
        return self.status_of(name, uuid, state)

    async def _discard_without_bytes(self, home: Key) -> None:
        """Discard an upload whose publication failed, if its bytes have been moved already.

        With its bytes the client can try again.  If the store cannot be read either, the purger removes it.
        """
        with suppress(StorageError):
            try:
                await self._driver.uploads.state(home)
            except UploadMissing:
                await self.discard_quietly(home)

    async def discard_quietly(self, home: Key) -> None:
        """Discard an upload that no client can continue.

        A failure changes no answer: the purger removes it by age.
        """
        try:
            await self._driver.uploads.discard(home)
        except StorageError as error:
            _warn_left_behind(home, error)

    async def status(self, name: RepoName, uuid: str) -> UploadStatus:
        home = _home(name, uuid)
        with upload_errors(uuid):
            return self.status_of(name, uuid, await self._driver.uploads.state(home))

    @asynccontextmanager
    async def extend(
        self,
        name: RepoName,
        uuid: str,
        state: str,
        *,
        start: int | None = None,
        algorithm: str = "sha256",
        length: int | None = None,
        digest: Digest | None = None,
    ) -> AsyncIterator[UploadPart]:
        del length, digest
        home = _home(name, uuid)
        expected = offset_of(state, self._secret, name, uuid)
        with upload_errors(uuid):
            current = await self._driver.uploads.state(home)
        if expected != current.offset or start not in {None, current.offset}:
            status = self.status_of(name, uuid, current)
            raise RangeInvalid(
                f"the upload's offset is {status.offset}", uuid=uuid, offset=status.offset, state=status.state
            )
        part = StoredPart(self, name, uuid, current, self.hashes.restore(home, current, algorithm))
        try:
            yield part
        finally:
            if part.claimed:
                await run_to_completion(part.leave())

    async def cancel(self, name: RepoName, uuid: str, state: str) -> None:
        home = _home(name, uuid)
        offset_of(state, self._secret, name, uuid)
        with upload_errors(uuid):
            await self._driver.uploads.state(home)
            await self._driver.uploads.discard(home)

    def close(self) -> None:
        self.hashes.close()

    def status_of(self, name: RepoName, uuid: str, state: UploadState) -> UploadStatus:
        """Return the status with the token for the next request."""
        token = UploadToken(name, uuid, state.offset, state.started)
        return UploadStatus(uuid, state.offset, token.sign(self._secret))

    def append(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Appender]:
        """Claim the upload; see `Uploads.append` of the driver."""
        return self._driver.uploads.append(home, state)

    async def publish(self, name: RepoName, uuid: str, state: UploadState, digest: Digest) -> Uploaded:
        """Publish the bytes, then write the link, then discard the upload; see the module docstring."""
        home = layout.upload_home(name, uuid)
        with upload_errors(uuid):
            for attempt in range(ATTEMPTS):
                try:
                    lost = await self._publish(name, home, state, digest)
                except UploadMissing as error:
                    if attempt:  # its bytes were moved before they were collected
                        raise Unavailable(_COLLECTED.format(digest)) from error
                    raise
                except (UploadBusy, UploadChanged):
                    raise
                except StorageError:
                    await self._discard_without_bytes(home)
                    raise
                if not lost:
                    break
            else:
                raise Unavailable(_COLLECTED.format(digest))
        if not self._blobs.publishes_with_link:
            await self.discard_quietly(home)
        return Uploaded(digest, state.offset)

    async def _publish(self, name: RepoName, home: Key, state: UploadState, digest: Digest) -> bool:
        """Publish the bytes, then write the link; return whether garbage collection has removed them meanwhile.

        The store may keep an object that a collector removes, and where it moves the bytes of the upload, they
        cannot be published twice.  So while the digest is being removed this waits.
        """
        gate = self._gate
        begun = await gate.begin()
        if not await gate.admits(begun, name, digest):
            await gate.settled(name, (digest,))
            begun = await gate.begin()
        if self._blobs.publishes_with_link:
            link = self._links.as_write(LAYER, name, digest)
            published = await self._blobs.publish_with_link(home, state, digest, link)
            if published.discard_error is not None:
                _warn_left_behind(home, published.discard_error)
        else:
            await self._blobs.publish(home, state, digest)
            await self._links.set(LAYER, name, digest)
        return bool(await gate.confirm(begun, name, (digest,), {LAYER(name, digest): digest}))

    @property
    def now(self) -> float:
        """Return the time of the clock, in seconds."""
        return self._clock()

    @property
    def batch_bytes(self) -> int:
        """Return the number of bytes that a request buffers before a write."""
        return max(_LEAST_BATCH_BYTES, min(_BATCH_BYTES, _BATCHES_BYTES // max(1, self._sending)))

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Count the request as one of those that share `_BATCHES_BYTES`."""
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1


def _warn_left_behind(home: Key, error: StorageError) -> None:
    _log.warning("an upload was left behind", upload=home, cause=str(error))


def _home(name: RepoName, uuid: str) -> Key:
    if _UUID.fullmatch(uuid) is None:
        raise BlobUploadUnknown(uuid)
    return layout.upload_home(name, uuid)
