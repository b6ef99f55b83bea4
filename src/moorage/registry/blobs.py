"""Blobs: bytes named by their digest, stored once, visible through each repository.

The bytes live once for the whole registry; a repository owns a link to them (`layout.py` draws both keys).  A
blob that exists but is not linked from the repository asked for is BLOB_UNKNOWN, so that one tenant cannot
probe what another has stored.

The link is read for every request, or was a moment ago where the store is far away (`links.py`): no request
that comes after an acknowledged deletion, on whatever worker or node, finds it.  The size, which the digest makes
immutable, is remembered (`sizes.py`), and compared with that of a file once a second; in an object store that
would be a request.  The existence of the bytes is checked when they are opened, so a GET
costs at most one read of a link, one stat, and one open.  An object of no bytes under another digest than theirs
is unknown like one that is missing, so that clients upload it again, and so is one that has another size than the
one remembered and, when it is read, another digest (`torn_blobs.py`).

Above: `http/blobs.py`, `manifests.py`.  Below: `storage/driver.py`; `storage/middleware/` says where
clients are sent.
Source: distribution-spec 1.1, "Pulling blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from moorage.caches import Recent
from moorage.errors import BlobUnknown, Unavailable, Unsupported
from moorage.registry import layout
from moorage.registry.interface import Blob
from moorage.registry.links import LAYER, Links
from moorage.registry.sizes import MemorySizes
from moorage.registry.storage_errors import refuse, refusing
from moorage.registry.torn_blobs import TornBlobs
from moorage.storage.driver import KeyMissing, ObjectTooLarge, RangeOutside, RequestCost, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import Driver, Key, LocalFile, SignedUrl
    from moorage.storage.middleware.rule import Rule
    from moorage.types import Digest, RepoName

__all__ = ["StoredBlobs"]

_CONFIRMED_S: Final = 1.0
"""Seconds for which a cached size is not compared with the store, which costs 3.5 us (6% of a HEAD)."""


class StoredBlobs:
    """See `interface.Blobs`.  `redirects` lets a client fetch from the store, or from where the last of `rules`
    sends it.  Sizes in `confirmed` are not compared with those of files.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        sizes: Sizes | None = None,
        links: Links | None = None,
        torn: TornBlobs | None = None,
        confirmed: Recent[Digest] | None = None,
        redirects: bool = True,
        redirect_expires_s: int = 1200,
        rules: Sequence[Rule] = (),
    ) -> None:
        self._driver = driver
        self._delete_enabled = delete_enabled
        self._sizes: Sizes = MemorySizes(10_000) if sizes is None else sizes
        self._links = Links(driver, sizes=self._sizes) if links is None else links
        self._torn = TornBlobs(driver) if torn is None else torn
        self._confirmed: Recent[Digest] = Recent(_CONFIRMED_S) if confirmed is None else confirmed
        self._redirects, self._expires_s = redirects, redirect_expires_s
        self._rules = rules
        self.leads_elsewhere = redirects and (driver.signs_urls or any(rule.makes for rule in rules))

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        try:
            stored = await self._links.recent(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            return Blob(digest, await self._size(stored), stored)
        except StorageError as error:
            refuse(error)

    async def elsewhere(self, name: RepoName, digest: Digest, *, client: str = "") -> SignedUrl | None:
        if not self.leads_elsewhere:
            return None
        with refusing():
            stored = await self._links.recent(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            return await self._signed(layout.blob_data(stored), "GET", client)

    async def _signed(self, key: Key, method: str, client: str) -> SignedUrl | None:
        found = await self._driver.handover(key, method=method, expires_s=self._expires_s)
        for rule in self._rules:
            found = await rule.apply(found, key, client)
        return found

    async def _size(self, stored: Digest) -> int:
        size = await self._sizes.get(stored)
        if size is None or self._torn.is_suspect(stored, size):
            return await self._look(stored)
        if self._driver.request_cost is RequestCost.NETWORK or self._confirmed.get(stored) == size:
            return size
        found = await self._torn.size(stored)
        if found != size:
            size = await self._judge(stored, found)
        self._confirmed.note(stored, size)
        return size

    async def _judge(self, stored: Digest, found: int | None) -> int:
        """Return the size of an object that has another one, `found`, than was remembered.  Raises BlobUnknown."""
        if found is None:
            await self._sizes.forget(stored)
        elif (size := await self._proven(stored)) is not None:
            return size
        raise BlobUnknown(str(stored))

    async def _proven(self, stored: Digest) -> int | None:
        """Replace a remembered size that is wrong; None, and nothing is remembered, if the blob is torn."""
        await self._sizes.forget(stored)
        size = await self._torn.proven_size(stored)
        if size is not None:
            await self._sizes.put(stored, size)
        return size

    async def _look(self, stored: Digest) -> int:
        """The size as storage has it now.  Raises BlobUnknown, also for what is known to be torn."""
        size = await self._torn.served_size(stored)
        if size is None:
            await self._sizes.forget(stored)
            raise BlobUnknown(str(stored))
        await self._sizes.put(stored, size)
        self._confirmed.note(stored, size)
        return size

    async def _check(self, blob: Blob, size: int) -> None:
        """Raise what `_differs` returns if `size` in storage is not the remembered one: no answer may be torn."""
        if size != blob.size:
            raise await self._differs(blob)

    async def _differs(self, blob: Blob) -> BlobUnknown | Unavailable:
        """Return the refusal for a blob whose size in storage is not the remembered one: unknown if it is torn."""
        size = await self._proven(blob.stored)
        if size is None:
            return BlobUnknown(str(blob.digest))
        return Unavailable(f"{blob.stored} has {size} bytes and not {blob.size}; ask again")

    @asynccontextmanager
    async def open(
        self, name: RepoName, blob: Blob, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        del name  # the caller's `stat` proved that the repository links it
        with refusing():
            try:
                async with self._driver.open(layout.blob_data(blob.stored), start=start, stop=stop) as reader:
                    await self._check(blob, reader.stat.size)
                    yield aiter(reader)
            except RangeOutside as error:
                raise await self._differs(blob) from error
            except KeyMissing:
                await self._sizes.forget(blob.stored)
                raise BlobUnknown(str(blob.digest)) from None

    async def read(self, blob: Blob) -> bytes:
        try:
            data = (await self._driver.read(layout.blob_data(blob.stored), limit=blob.size)).data
            if len(data) == blob.size:
                return data
        except ObjectTooLarge:
            pass
        except KeyMissing:
            await self._sizes.forget(blob.stored)
            raise BlobUnknown(str(blob.digest)) from None
        except StorageError as error:
            refuse(error)
        with refusing():
            raise await self._differs(blob)

    async def open_file(self, blob: Blob) -> LocalFile | None:
        with refusing():
            try:
                found = await self._driver.open_file(layout.blob_data(blob.stored))
            except KeyMissing:
                await self._sizes.forget(blob.stored)
                raise BlobUnknown(str(blob.digest)) from None
            if found is not None and found.size != blob.size:
                found.file.close()
                raise await self._differs(blob)
            return found

    async def handover(self, blob: Blob, *, method: str, client: str = "") -> SignedUrl | None:
        if not self._redirects:
            return None
        with refusing():
            return await self._signed(layout.blob_data(blob.stored), method, client)

    async def mount(self, name: RepoName, digest: Digest, source: RepoName | None) -> Blob:
        with refusing():
            stored: Digest | None = digest
            if source is not None:
                stored = await self._links.recent(LAYER, source, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            size = await self._torn.mountable_size(stored)
            if size is None:
                await self._sizes.forget(stored)
                raise BlobUnknown(str(digest))
            await self._sizes.put(stored, size)
            blob = Blob(digest, size, stored)
            await self._links.set(LAYER, name, digest, stored)
            return blob

    async def delete(self, name: RepoName, digest: Digest) -> None:
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            stored = await self._links.current(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            await self._links.remove(LAYER, name, digest, stored)
