"""The blob store: bytes under their digest, shared by all repositories.  Owner of the objects below `blobs/`.

    stored   by an upload (`publish`), or written at once (`write`, for manifests)
    relied   `rely` answers whether the bytes of a digest are in the store, so that clients need not send them
    served   to clients by `open`, `open_file`, `read`, `signed_url`; to tools by `content`, `pieces`, `hashed`

`rely` is the only place where a client's push may come to depend on bytes that were stored before: HEAD, mount,
the references of a manifest, and uploads whose object the store has kept.  Its callers, and those of `publish` and
`write`, which may keep an object, ask `collection_gate.py` before, and once more when their link is written.

The size, which the digest makes immutable, is remembered (`sizes.py`), and compared with that of the file once a
second; in an object store that would be a request.  A garbage collection drops everything that is remembered
(`forget_all`); nor does a size count from then on that was requested before.

Torn blobs: objects whose bytes are not those of their digest, after a crash or on a full disk.  Their bytes are
read when two sizes differ: a manifest is pushed whose descriptor has another size than the store, or the store has
another size than it had before.  The result is remembered until the object is written again (`torn_blobs.py`), and
one blob is read at a time.  A mark beside the bytes holds the size that they had, for other processes: such an
object is not mounted, and where reading the mark costs no request to another host, not served.  An outdated mark
does no harm: an object of another size is another one, and one of that size is read, and loses the mark if it is
whole.  A mark that is not a number alone, as a later version may write one, is ignored.

A torn blob counts as missing: clients upload it again, and a published upload replaces the object.  Not found: a
blob cut short before its size was first read, and one with other bytes of the same length.  `moorage storage
check` finds both.

Above: `blobs.py`, `uploads.py`, `manifests.py`, `fsck/`, `copy/`.  Below: `storage/driver.py`.
Parts: `sizes.py`, `torn_blobs.py`, `deduplicated_writes.py`, `contents.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import TTLCache
from moorage.concurrency import gather_all
from moorage.errors import BlobUnknown, Unavailable
from moorage.registry import contents, layout
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.sizes import MemorySizes
from moorage.registry.storage_errors import refuse, refusing
from moorage.registry.torn_blobs import TornBlobs
from moorage.storage.driver import (
    READ_LIMIT_BYTES,
    KeyMissing,
    ObjectTooLarge,
    RangeOutside,
    RequestCost,
    StorageError,
    StorageExhausted,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from io import FileIO

    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import (
        Driver,
        Key,
        Published,
        Stat,
        Stored,
        UploadState,
        Writer,
    )
    from moorage.storage.middleware.rule import Rule
    from moorage.types import Digest

__all__ = ["BlobStore", "Purpose"]

_CONFIRMED_S: Final = 1.0
"""Seconds for which a cached size is not compared with the store, which costs 3.5 us (6% of a HEAD)."""
_SIZES: Final = 10_000
_MARK_BYTES: Final = 32
_log: Final = structlog.get_logger("moorage.registry")


class Purpose(Enum):
    """Reason for which a caller relies on the bytes of a blob; it decides which memory may answer.

    SERVE: a repository links the blob, and the client requests it.  A remembered size may answer.
    REFER: a manifest names the blob.  Bytes that were seen a moment ago in a remote store may answer.
    LINK: another repository gets a link to the blob.  Size and mark of torn blobs are always read from the store.
    """

    SERVE = "serve"
    REFER = "refer"
    LINK = "link"


_SERVE: Final = Purpose.SERVE
_REFER: Final = Purpose.REFER


class BlobStore:
    """Blobs of one driver.  Digests are those under which the bytes are stored; sizes are bytes.

    Methods raise StorageUnavailable; `open`, `open_file`, `read` and `signed_url` raise RegistryError instead.
    Blobs in `recent` are relied on for references; sizes in `confirmed` are not compared with those of files.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        sizes: Sizes | None = None,
        recent: TTLCache[Digest, int] | None = None,
        confirmed: TTLCache[Digest, int] | None = None,
        writes: DeduplicatedWrites | None = None,
    ) -> None:
        self._driver = driver
        self._sizes: Sizes = MemorySizes(_SIZES) if sizes is None else sizes
        self._recent: TTLCache[Digest, int] = TTLCache(0) if recent is None else recent
        self._confirmed: TTLCache[Digest, int] = TTLCache(10_000, _CONFIRMED_S) if confirmed is None else confirmed
        self._writes = DeduplicatedWrites(driver) if writes is None else writes
        self._torn = TornBlobs()
        self._collections = 0  # calls of `forget_all`
        self._reading = asyncio.Lock()
        # Sizes that other processes share have to be right before the link is there.
        self._remote = driver.request_cost is RequestCost.NETWORK
        self.publishes_with_link = not self._remote and isinstance(self._sizes, MemorySizes)

    # Existence and size.

    async def rely(self, digest: Digest, purpose: Purpose = _SERVE, *, expected: int | None = None) -> int | None:
        """Return the size of a blob whose bytes a client need not send; None if they are missing or torn.

        `expected`: for REFER, the only size with which the memory may answer.  The returned size may be another
        one; then the blob may be torn, and `prove` decides.
        """
        if purpose is _REFER:
            size = self._recent.get(digest)
            collections = self._collections
            if size is None or expected not in {None, size}:
                try:
                    size = self._torn.size_of(digest, await self._driver.stat(layout.blob_data(digest)))
                except KeyMissing:
                    size = None
            if size is None:
                # A process that remembers its size must not answer clients with it, or it is never uploaded again.
                await self._sizes.forget(digest)
            elif expected in {None, size} and collections == self._collections:
                self._recent.put(digest, size)
            return size
        if purpose is _SERVE:
            size = await self._sizes.get(digest)
            if size is not None and not self._torn.is_suspect(digest, size):
                if self._remote or self._confirmed.get(digest) == size:
                    return size
                collections = self._collections
                found = await self._size(digest)
                if found is None:
                    await self._sizes.forget(digest)
                elif (
                    found == size or (found := await self.prove(digest)) is not None
                ) and collections == self._collections:
                    self._confirmed.put(digest, found)
                return found
        return await self._stored_size(digest, purpose)

    async def _stored_size(self, digest: Digest, purpose: Purpose) -> int | None:
        """Return the size in the store, and remember it; None for an object that any process has found to be torn.

        Reads all bytes of an object of the size that such a one had.  To serve a blob of a remote store the mark
        is not read.
        """
        mark: int | None = None
        collections = self._collections
        if self._remote and purpose is not _SERVE:
            size, mark = await gather_all(self._size(digest), self._marked_size(digest))
        else:  # a local driver answers at once, and tasks would cost ten times as much
            try:
                size = self._torn.size_of(digest, await self._driver.stat(layout.blob_data(digest)))
            except KeyMissing:
                size = None
            if size is not None and not self._remote:
                try:  # `suppress` costs a microsecond
                    mark = int((await self._driver.read(layout.torn_mark(digest), limit=_MARK_BYTES)).data)
                except (KeyMissing, ObjectTooLarge, ValueError):
                    mark = None
        if size is not None and size == mark and (size := await self._proven_size(digest)) is not None:
            with suppress(StorageExhausted):  # read-only: the next process reads it again
                await self._driver.delete([layout.torn_mark(digest)])
        if size is None:
            await self._sizes.forget(digest)
        elif collections == self._collections:
            await self._sizes.put(digest, size)
            self._confirmed.put(digest, size)
        return size

    async def prove(self, digest: Digest) -> int | None:
        """Return the size in the store; None if there is no object or its bytes are not those of `digest`.

        Reads all bytes, unless that was done since they were written.  The result replaces a remembered size.
        """
        collections = self._collections
        await self._sizes.forget(digest)
        size = await self._proven_size(digest)
        if size is not None and collections == self._collections:
            await self._sizes.put(digest, size)
        return size

    async def forget(self, digest: Digest) -> None:
        """Forget the remembered size of a blob that is missing or torn."""
        await self._sizes.forget(digest)

    def forget_all(self) -> None:
        """Forget all sizes: garbage collection may have removed any of the blobs."""
        self._collections += 1
        self._recent.clear()
        self._confirmed.clear()
        self._sizes.clear()

    async def stat(self, digest: Digest) -> Stat | None:
        """Return size and time of the object; None if there is none."""
        try:
            return await self._driver.stat(layout.blob_data(digest))
        except KeyMissing:
            return None

    def key(self, digest: Digest) -> Key:
        """Return the key of the bytes, for reports of tools."""
        return layout.blob_data(digest)

    # Contents, for clients.

    @asynccontextmanager
    async def open(
        self, digest: Digest, size: int, span: range, *, requested: Digest
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream the bytes `span` of a blob that has `size` bytes.  `requested` is its digest in errors.

        Entering raises BlobUnknown if the blob is missing or torn, Unavailable if its size is another one.
        """
        with refusing():
            try:
                async with self._driver.open(layout.blob_data(digest), start=span.start, stop=span.stop) as reader:
                    if reader.stat.size != size:
                        raise await self._differs(digest, size, requested)
                    yield aiter(reader)
            except RangeOutside as error:
                raise await self._differs(digest, size, requested) from error
            except KeyMissing:
                await self._sizes.forget(digest)
                raise BlobUnknown(str(requested)) from None

    async def open_file(self, digest: Digest, size: int, *, requested: Digest) -> FileIO | None:
        """Return the blob as an open file, which the caller closes; None where blobs are not files of this host.
        Raises as `open`.
        """
        with refusing():
            try:
                found = await self._driver.open_file(layout.blob_data(digest))
            except KeyMissing:
                await self._sizes.forget(digest)
                raise BlobUnknown(str(requested)) from None
            if found is not None and found.size != size:
                found.file.close()
                raise await self._differs(digest, size, requested)
            return None if found is None else found.file

    async def read(self, digest: Digest, size: int, *, requested: Digest) -> bytes:
        """Return all bytes of a small blob.  Raises as `open`."""
        try:
            data = (await self._driver.read(layout.blob_data(digest), limit=size)).data
            if len(data) == size:
                return data
        except ObjectTooLarge:
            pass
        except KeyMissing:
            await self._sizes.forget(digest)
            raise BlobUnknown(str(requested)) from None
        except StorageError as error:
            refuse(error)
        with refusing():
            raise await self._differs(digest, size, requested)

    async def signed_url(
        self, digest: Digest, *, client: str, expires_s: int, rules: Sequence[Rule]
    ) -> str | None:
        """Return the URL at which the `client` (its address) can fetch the bytes; None if no store serves them.
        Each of `rules` may replace it.
        """
        key = layout.blob_data(digest)
        with refusing():
            found = await self._driver.handover(key, method="GET", expires_s=expires_s)
            for rule in rules:
                found = await rule.apply(found, key, client)
            return None if found is None else found.url

    async def _differs(self, digest: Digest, size: int, requested: Digest) -> BlobUnknown | Unavailable:
        """Return the refusal for a blob whose size in the store is not `size`: unknown if it is torn."""
        found = await self.prove(digest)
        if found is None:
            return BlobUnknown(str(requested))
        return Unavailable(f"{digest} has {found} bytes and not {size}; ask again")

    # Contents, as they are stored: not compared with the digest.

    async def content(self, digest: Digest, *, limit: int = READ_LIMIT_BYTES) -> bytes:
        """Return all bytes of an object.  Raises KeyMissing, ObjectTooLarge."""
        return (await self._driver.read(layout.blob_data(digest), limit=limit)).data

    def pieces(self, digest: Digest) -> AsyncIterator[list[bytes]]:
        """Stream the bytes, about 1 MiB at a time.  Raises KeyMissing."""
        return contents.pieces(self._driver, layout.blob_data(digest))

    async def hashed(self, digest: Digest, progress: Callable[[int], None] | None = None) -> tuple[str, int]:
        """Read all bytes; return the hex of their digest, and how many they are.  Raises KeyMissing."""
        return await contents.hashed(self._driver, layout.blob_data(digest), digest.algorithm, progress)

    # Storing and removing.

    async def publish(self, home: Key, state: UploadState, digest: Digest) -> Stored:
        """Make the bytes of an upload, which have been proven, those of `digest`.  Raises as `Uploads.publish`."""
        collections = self._collections
        stored = await self._driver.uploads.publish(home, state, layout.blob_data(digest))
        await self._published(digest, state.offset, collections)
        return stored

    async def publish_with_link(self, home: Key, state: UploadState, digest: Digest, link: Write) -> Published:
        """As `publish`, then write `link` and discard the upload.  Only if `publishes_with_link`."""
        collections = self._collections
        published = await self._driver.publish(home, state, layout.blob_data(digest), link)
        await self._published(digest, state.offset, collections)
        return published

    async def _published(self, digest: Digest, size: int, collections: int) -> None:
        """Replace everything that this process remembers of the digest, which may be of a torn object."""
        self._torn.forget(digest)
        if collections == self._collections:
            self._recent.put(digest, size)
            await self._sizes.put(digest, size)
        else:
            await self._sizes.forget(digest)

    async def adopt(self, digest: Digest, path: str, size: int) -> None:
        """Make a local file of `size` bytes, which have been proven, the blob.  Raises as `Driver.adopt`."""
        collections = self._collections
        await self._driver.adopt(layout.blob_data(digest), path)
        await self._published(digest, size, collections)

    async def write(self, digest: Digest, data: bytes) -> None:
        """Make sure that `data`, whose digest it is, is stored durably."""
        await self._writes.ensure(layout.blob_data(digest), data)

    def as_write(self, digest: Digest, data: bytes) -> Write:
        """Return `write` as part of `Driver.write_ordered`."""
        return Write(layout.blob_data(digest), data)

    def create(self, digest: Digest) -> AbstractAsyncContextManager[Writer]:
        """Write a blob in one go; the caller compares the bytes with the digest before the commit."""
        return self._driver.create(layout.blob_data(digest))

    async def remove(self, digest: Digest) -> None:
        """Remove the bytes.  No repository may link them."""
        await self._driver.delete([layout.blob_data(digest)])

    # Torn blobs.

    async def _size(self, digest: Digest) -> int | None:
        """Return the size in the store; None if there is no object or it is known to be torn."""
        try:
            return self._torn.size_of(digest, await self._driver.stat(layout.blob_data(digest)))
        except KeyMissing:
            return None

    async def _marked_size(self, digest: Digest) -> int | None:
        try:
            return int((await self._driver.read(layout.torn_mark(digest), limit=_MARK_BYTES)).data)
        except (KeyMissing, ObjectTooLarge, ValueError):
            return None

    async def _proven_size(self, digest: Digest) -> int | None:
        """Return what `prove` does."""
        async with self._reading:
            stat = await self.stat(digest)
            if stat is None:
                return None
            whole = self._torn.is_whole(digest, stat)
            if whole is not None:
                return stat.size if whole else None
            try:
                found, size = await self.hashed(digest)
            except KeyMissing:
                return None
            whole = found == digest.hex
            self._torn.note(digest, size, stat.modified, whole=whole)
            if whole:
                return size
            _log.error(
                "a blob is torn and counts as missing; pushing it again repairs it", digest=str(digest), size=size
            )
            with suppress(StorageExhausted):  # full or read-only: each process finds it by itself
                await self._driver.write(layout.torn_mark(digest), str(size).encode())
            return None
