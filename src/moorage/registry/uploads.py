"""Blobs on their way in: hashed once, while they are written, by whichever process has the request.

    start ──► extend (PATCH, any number, any process) ──► extend + finish (PUT) ──► blob + link
                 │ each leaves a checkpoint: bytes durable, hash state beside them
                 └── cancel, or purged by age

An upload's bytes pass through once.  `UploadPart.write` gathers chunks into batches, without joining them; while
one batch is hashed and written by threads, both without the GIL, the next is received: two batches and a chunk are
in memory at most, and a slow disk slows the client down, not the process.  Handing over a batch costs about 70 us,
so a batch is 1 MiB while up to eight requests send, and less for each when more do: all batches of a process have
16 MiB until 32 requests send at once, from then on half a MiB per request.

What a crash leaves, step by step of `finish` (its order keeps invariant 1 of ARCHITECTURE.md):

    before it is sealed        the upload at its last checkpoint; the client continues from there
    after it is sealed         the same, or the upload whole; the client continues, or repeats the PUT
    after publish              a blob without a link: invisible, the collector's; the client uploads again
    after the link             a finished blob, and an upload home without data for the purger
    after discard              nothing

A client that hangs up, a timeout and a cancellation end in a checkpoint too: what arrived is kept.

Beside: `hashing.py`, `upload_token.py`, `purge.py`.  Source: distribution-spec 1.1 "Pushing a blob in chunks";
docs/reference/http-api.md, section 7.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import BoundedCache
from moorage.errors import BlobUploadUnknown, DigestInvalid, RangeInvalid, RegistryError
from moorage.registry import hashing, layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.interface import UNKNOWN_CALLER, Uploaded, UploadStatus
from moorage.registry.links import LAYER, Links
from moorage.registry.storage_errors import refusing
from moorage.registry.upload_token import UploadToken, offset_of
from moorage.shielding import run_to_completion
from moorage.storage.driver import Note, StorageError, UploadBusy, UploadChanged, UploadMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from moorage.registry.hashing import Hasher
    from moorage.registry.interface import Caller, UploadPart
    from moorage.storage import driver as storage
    from moorage.storage.driver import Appender, Driver, Key, UploadState, Version
    from moorage.types import Digest, RepoName

__all__ = ["StoredUploads", "new_upload_id"]

_BATCH_BYTES: Final = 1 << 20
_LEAST_BATCH_BYTES: Final = 256 << 10
_BATCHES_BYTES: Final = 8 << 20
"""Of all requests that are sending: what each gathers.  As much again is being stored."""
_AT_ONCE_BYTES: Final = 64 << 10
_NOTED_FROM_BYTES: Final = 1 << 20
_CHECKPOINT_BYTES: Final = 256 << 20
_HASHERS: Final = 256
_CHECKPOINT_S: Final = 15.0
_log: Final = structlog.get_logger("moorage.registry")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)


def new_upload_id() -> str:
    """A UUID of version 7 (RFC 9562): sorted by time in a listing, as the reference's since 3.1."""
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
        processors: int = 1,
    ) -> None:
        self._driver, self._secret, self._clock = driver, secret, clock
        self._blobs = BlobStore(driver) if store is None else store
        self._links = Links(driver) if links is None else links
        self._hashing = ThreadPoolExecutor(max(4, 2 * processors), "hashing")
        self._hashers: BoundedCache[Key, tuple[int, Version, dict[str, Hasher]]] = BoundedCache(_HASHERS)
        self._sending = 0  # requests that have written something and not ended

    async def start(self, name: RepoName, *, algorithm: str = "sha256") -> UploadStatus:
        uuid = new_upload_id()
        home = layout.upload_home(name, uuid)
        with refusing():
            state = await self._driver.uploads.begin(home)
            if algorithm != "sha256":
                # The hint outlives this request as a hash state of nothing, which `_hashers` finds again.
                try:
                    async with self._driver.uploads.append(home, state) as appender:
                        state = await appender.checkpoint(_notes(_fresh("sha256", algorithm)))
                except StorageError:
                    await self.discard_quietly(home)
                    raise
        return self.status_of(name, uuid, state)

    async def _discard_without_bytes(self, home: Key) -> None:
        """After a failed publication: discard the upload if its bytes have been moved already.

        With its bytes the client can try again.  Where that cannot be seen either, it is left to the purger.
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
        with refusing():
            return self.status_of(name, uuid, await self._state(_home(name, uuid)))

    @asynccontextmanager
    async def extend(
        self, name: RepoName, uuid: str, state: str, *, start: int | None = None, algorithm: str = "sha256"
    ) -> AsyncIterator[UploadPart]:
        home = _home(name, uuid)
        expected = offset_of(state, self._secret, name, uuid)
        with refusing():
            current = await self._state(home)
        if expected != current.offset or start not in {None, current.offset}:
            status = self.status_of(name, uuid, current)
            raise RangeInvalid(
                f"the upload's offset is {status.offset}", uuid=uuid, offset=status.offset, state=status.state
            )
        hashers = _hashers(current, algorithm) or self._kept_hashers(home, current)
        part = StoredPart(self, self._driver.uploads, name, uuid, current, hashers)
        try:
            yield part
        finally:
            if part.claimed:
                await run_to_completion(part.leave())

    async def cancel(self, name: RepoName, uuid: str, state: str) -> None:
        home = _home(name, uuid)
        offset_of(state, self._secret, name, uuid)
        with refusing():
            await self._state(home)
            await self._driver.uploads.discard(home)

    def close(self) -> None:
        self._hashing.shutdown(wait=True)

    async def _state(self, home: Key) -> UploadState:
        try:
            return await self._driver.uploads.state(home)
        except UploadMissing as error:
            raise BlobUploadUnknown(home.rpartition("/")[2]) from error

    def status_of(self, name: RepoName, uuid: str, state: UploadState) -> UploadStatus:
        token = UploadToken(name, uuid, state.offset, state.started)
        return UploadStatus(uuid, state.offset, token.sign(self._secret))

    def keep_hashers(self, home: Key, state: UploadState, hashers: dict[str, Hasher]) -> None:
        """Keep the hashes of a small upload for the next request, if it reaches this process.

        Its hash state is not stored, so they save reading it; what another process extends has another version.
        """
        if state.version and not state.notes and all(hasher.length == state.offset for hasher in hashers.values()):
            self._hashers.put(home, (state.offset, state.version, hashers))

    def _kept_hashers(self, home: Key, state: UploadState) -> dict[str, Hasher]:
        kept = self._hashers.get(home)
        self._hashers.drop(home)
        return kept[2] if kept is not None and kept[:2] == (state.offset, state.version) else {}

    async def hashed(self, home: Key, state: UploadState, algorithm: str) -> Hasher:
        """Hash the stored bytes again: they are few, or the hash state was lost or is of another algorithm."""
        hasher = hashing.new(algorithm)
        loop = asyncio.get_running_loop()
        async with self._driver.uploads.read(home, state) as reader:
            async for piece in reader:
                if len(piece) <= _AT_ONCE_BYTES:
                    hasher.update([piece])
                else:
                    await loop.run_in_executor(self._hashing, hasher.update, [piece])
        return hasher

    async def publish(self, name: RepoName, uuid: str, state: UploadState, digest: Digest) -> Uploaded:
        """Data, then link, then the upload's end; see the module docstring."""
        home = layout.upload_home(name, uuid)
        try:
            if self._blobs.publishes_with_link:
                link = self._links.as_write(LAYER, name, digest)
                published = await self._blobs.publish_with_link(home, state, digest, link)
                if published.discard_error is not None:
                    _warn_left_behind(home, published.discard_error)
            else:
                await self._blobs.publish(home, state, digest)
                await self._links.set(LAYER, name, digest)
        except (UploadBusy, UploadChanged) as error:
            raise RangeInvalid("another request is writing to this upload") from error
        except UploadMissing as error:
            raise BlobUploadUnknown(uuid) from error
        except StorageError:
            await self._discard_without_bytes(home)
            raise
        if not self._blobs.publishes_with_link:
            await self.discard_quietly(home)
        return Uploaded(digest, state.offset)

    @property
    def now(self) -> float:
        return self._clock()

    @property
    def batch_bytes(self) -> int:
        """Return the number of bytes that a request buffers before a write."""
        return max(_LEAST_BATCH_BYTES, min(_BATCH_BYTES, _BATCHES_BYTES // max(1, self._sending)))

    @contextmanager
    def sending(self) -> Iterator[None]:
        """The body is one of the requests that share `_BATCHES_BYTES`."""
        self._sending += 1
        try:
            yield
        finally:
            self._sending -= 1


class StoredPart:
    """See `interface.UploadPart`.

    The upload is claimed with the first byte, so a closing PUT without a body costs no lock of its own.
    `hashers` are the hashes of everything up to here; an algorithm that is not in it cannot be continued and
    is computed by reading the stored bytes when `finish` needs it.
    """

    def __init__(
        self,
        uploads: StoredUploads,
        storage: storage.Uploads,
        name: RepoName,
        uuid: str,
        state: UploadState,
        hashers: dict[str, Hasher],
    ) -> None:
        self._uploads, self._storage, self._name, self._uuid = uploads, storage, name, uuid
        self._home = layout.upload_home(name, uuid)
        self._state, self._hashers = state, hashers
        self._stack = AsyncExitStack()
        self._appender: Appender | None = None
        self._batch: list[bytes] = []
        self._batched = 0
        self._flushing: asyncio.Task[None] | None = None
        self._written = state.offset
        self._checked = uploads.now
        self._broken = False

    @property
    def claimed(self) -> bool:
        """Whether there is anything to keep and to give back."""
        return self._appender is not None

    async def write(self, chunk: bytes | Sequence[bytes]) -> None:
        if self._appender is None:
            with refusing():
                self._appender = await self._claim()
        if isinstance(chunk, bytes):
            self._batch.append(chunk)
            self._batched += len(chunk)
        else:
            self._batch += chunk
            self._batched += sum(map(len, chunk))
        if self._batched >= self._uploads.batch_bytes:
            with self._refusing():
                await self._flush()
                if self._due():
                    await self._checkpoint()

    async def _claim(self) -> Appender:
        try:
            if not self._hashers and self._state.offset < _NOTED_FROM_BYTES:
                self._hashers["sha256"] = await self._uploads.hashed(self._home, self._state, "sha256")
            appender = await self._stack.enter_async_context(self._storage.append(self._home, self._state))
        except (UploadBusy, UploadChanged) as error:
            status = self._uploads.status_of(self._name, self._uuid, self._state)
            raise RangeInvalid(
                "another request is writing to this upload",
                uuid=status.uuid,
                offset=status.offset,
                state=status.state,
            ) from error
        except UploadMissing as error:
            raise BlobUploadUnknown(self._uuid) from error
        self._stack.enter_context(self._uploads.sending())
        return appender

    async def commit(self) -> UploadStatus:
        with self._refusing():
            if self._appender is None:  # a chunk of nothing finds out, too, whether another request is writing
                self._appender = await self._claim()
            await self._checkpoint()
        return self._uploads.status_of(self._name, self._uuid, self._state)

    async def finish(self, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Uploaded:
        del caller
        with self._refusing():
            await self._seal()
            hasher = self._hashers.get(digest.algorithm)
            try:
                hasher = hasher or await self._uploads.hashed(self._home, self._state, digest.algorithm)
            except (UploadMissing, UploadChanged) as error:
                raise BlobUploadUnknown(self._uuid) from error
            await self._close()
            if (actual := hasher.hexdigest()) != digest.hex:
                await self._uploads.discard_quietly(self._home)
                raise DigestInvalid(f"the content is {digest.algorithm}:{actual}, not {digest}")
            return await self._uploads.publish(self._name, self._uuid, self._state, digest)

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """As `refusing`; after a failure there is no further checkpoint."""
        try:
            with refusing():
                yield
        except RegistryError:
            self._broken = True
            raise

    async def leave(self) -> None:
        """Keep the bytes that arrived, for any reason that ended the request.

        After a failure of the storage, which has been logged, the last checkpoint holds; what was written beyond
        it is cut off here, or by the next writer.
        """
        if self._broken:
            try:
                await self._close()
            except StorageError as error:
                _log.debug("leaving an upload after a failure failed as well", upload=self._home, cause=str(error))
            return
        with refusing():
            try:
                await self._checkpoint()
                self._uploads.keep_hashers(self._home, self._state, self._hashers)
            finally:
                await self._close()

    async def _close(self) -> None:
        # A task that failed holds its exception, that this object by its frames, and this the task.
        self._appender = self._flushing = None
        await self._stack.aclose()

    def _due(self) -> bool:
        grown = self._written - self._state.offset
        return grown >= _CHECKPOINT_BYTES or (grown > 0 and self._uploads.now - self._checked >= _CHECKPOINT_S)

    async def _flush(self) -> None:
        """Hand the gathered batch to the threads, after the one before it."""
        batch, self._batch, self._batched = self._batch, [], 0
        await self._drained()
        if batch:
            self._flushing = asyncio.ensure_future(self._store(batch))

    async def _drained(self) -> None:
        if (flushing := self._flushing) is not None:
            await asyncio.shield(flushing)
            self._flushing = None

    async def _store(self, batch: list[bytes]) -> None:
        assert self._appender is not None, "write() claimed the upload before it gathered a batch"
        await self._appender.write(batch, self._hash)
        self._written += sum(map(len, batch))

    def _hash(self, chunks: Sequence[bytes]) -> None:
        for hasher in self._hashers.values():
            hasher.update(chunks)

    async def _checkpoint(self) -> None:
        await self._drained()
        # A hash state costs two directories and two files; a few bytes are sooner read again.
        noted = self._written + self._batched >= _NOTED_FROM_BYTES or bool(self._state.notes)
        await self._keep(noted=noted)
        self._checked = self._uploads.now

    async def _seal(self) -> None:
        """Everything that came is ready to be published; without notes, since that ends the upload."""
        if self._appender is None:
            return
        await self._drained()
        batch, self._batch, self._batched = self._batch, [], 0
        if batch or self._written != self._state.offset:
            try:
                self._state = await self._appender.seal(batch, self._hash)
            except UploadMissing as error:  # cancelled beside us
                raise BlobUploadUnknown(self._uuid) from error
            except UploadChanged as error:
                raise RangeInvalid("another request is writing to this upload") from error
            self._written = self._state.offset

    async def _keep(self, *, noted: bool) -> None:
        """A checkpoint of everything, if anything is new; without notes the last batch goes along with it."""
        if self._appender is None:
            return
        if noted:
            await self._flush()
        await self._drained()
        batch, self._batch, self._batched = self._batch, [], 0
        if not batch and self._written == self._state.offset:
            return
        notes = _notes(self._hashers) if noted else ()
        try:
            self._state = await self._appender.checkpoint(notes, batch, self._hash)
        except UploadMissing as error:  # cancelled beside us
            raise BlobUploadUnknown(self._uuid) from error
        except UploadChanged as error:  # a store without locks let another request in, and that was faster
            raise RangeInvalid("another request is writing to this upload") from error
        self._written = self._state.offset


def _warn_left_behind(home: Key, error: StorageError) -> None:
    _log.warning("an upload was left behind", upload=home, cause=str(error))


def _home(name: RepoName, uuid: str) -> Key:
    if _UUID.fullmatch(uuid) is None:
        raise BlobUploadUnknown(uuid)
    return layout.upload_home(name, uuid)


def _fresh(*algorithms: str) -> dict[str, Hasher]:
    return {algorithm: hashing.new(algorithm) for algorithm in algorithms}


def _hashers(state: UploadState, algorithm: str) -> dict[str, Hasher]:
    """Return hashers that continue at the offset: new ones at 0, else those with a stored state."""
    found: dict[str, Hasher] = {} if state.offset else _fresh("sha256", algorithm)
    for note in state.notes:
        kind = note.name.split("/")[1] if note.name.count("/") == 2 else ""  # noqa: PLR2004  hashstates/ALG/OFFSET
        if kind in {"sha256", "sha512"}:
            with suppress(KeyError):
                if (hasher := hashing.restore(kind, note.data, state.offset)) is not None:
                    found[kind] = hasher
    return found


def _notes(hashers: dict[str, Hasher]) -> list[Note]:
    notes = []
    for algorithm, hasher in hashers.items():
        if (exported := hasher.export()) is not None:
            notes.append(Note(f"hashstates/{algorithm}/{hasher.length}", exported))
    return notes
