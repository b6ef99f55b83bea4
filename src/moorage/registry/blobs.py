"""Blobs: bytes named by their digest, stored once, visible through each repository.

The bytes live once for the whole registry; a repository owns a link to them (`layout.py` draws both keys).  A
blob that exists but is not linked from the repository asked for is BLOB_UNKNOWN, so that one tenant cannot
probe what another has stored.

The link is read for every request: a deletion on another worker or node shows at once.  The size, which the
digest makes immutable, is remembered; that the bytes are still there is checked by whoever opens them, so a
GET costs one read of a link, at most one stat, and one open.

Above: `http/blobs.py`, `manifests.py`.  Below: `storage/driver.py`.
Source: distribution-spec 1.1, "Pulling blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from moorage.errors import BlobUnknown, Unsupported
from moorage.registry import layout
from moorage.registry.caches import BoundedCache
from moorage.registry.interface import Blob
from moorage.registry.links import read_link, write_link
from moorage.registry.refusals import refusing
from moorage.storage.driver import KeyMissing, LocalFile, SignedUrl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["StoredBlobs"]


class StoredBlobs:
    """See `interface.Blobs`.  `remembered` sizes are kept; `redirects` lets a client fetch from the store."""

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        remembered: int = 10_000,
        redirects: bool = True,
        redirect_expires_s: int = 1200,
    ) -> None:
        self._driver = driver
        self._delete_enabled = delete_enabled
        self.sizes: BoundedCache[Digest, int] = BoundedCache(remembered)
        self._redirects, self._expires_s = redirects, redirect_expires_s

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        with refusing():
            stored = await read_link(self._driver, layout.layer_link(name, digest), digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            return Blob(digest, await self._size(stored), stored)

    async def elsewhere(self, name: RepoName, digest: Digest) -> SignedUrl | None:
        if not (self._redirects and self._driver.remote):
            return None
        with refusing():
            stored = await read_link(self._driver, layout.layer_link(name, digest), digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            key = layout.blob_data(stored)
            found = await self._driver.handover(key, method="GET", expires_s=self._expires_s)
        return found if isinstance(found, SignedUrl) else None

    async def _size(self, stored: Digest) -> int:
        size = self.sizes.get(stored)
        if size is None:
            try:
                size = (await self._driver.stat(layout.blob_data(stored))).size
            except KeyMissing:
                raise BlobUnknown(str(stored)) from None
            self.sizes.put(stored, size)
        return size

    @asynccontextmanager
    async def open(
        self, name: RepoName, blob: Blob, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        del name  # the caller's `stat` proved that the repository links it
        with refusing():
            try:
                async with self._driver.open(layout.blob_data(blob.stored), start=start, stop=stop) as reader:
                    yield aiter(reader)
            except KeyMissing:
                self.sizes.drop(blob.stored)
                raise BlobUnknown(str(blob.digest)) from None

    async def read(self, blob: Blob) -> bytes:
        with refusing():
            try:
                return (await self._driver.read(layout.blob_data(blob.stored))).data
            except KeyMissing:
                self.sizes.drop(blob.stored)
                raise BlobUnknown(str(blob.digest)) from None

    async def handover(self, blob: Blob, *, method: str) -> LocalFile | SignedUrl | None:
        key = layout.blob_data(blob.stored)
        with refusing():
            found = await self._driver.handover(key, method=method, expires_s=self._expires_s)
            if isinstance(found, LocalFile):
                # The server opens the file after the status line is gone, too late for a 404.
                try:
                    await self._driver.stat(key)
                except KeyMissing:
                    self.sizes.drop(blob.stored)
                    raise BlobUnknown(str(blob.digest)) from None
                return found
            return found if self._redirects else None

    async def mount(self, name: RepoName, digest: Digest, source: RepoName | None) -> Blob:
        with refusing():
            stored: Digest | None = digest
            if source is not None:
                stored = await read_link(self._driver, layout.layer_link(source, digest))
            if stored is None:
                raise BlobUnknown(str(digest))
            self.sizes.drop(stored)
            blob = Blob(digest, await self._size(stored), stored)
            await write_link(self._driver, layout.layer_link(name, digest), stored)
            return blob

    async def delete(self, name: RepoName, digest: Digest) -> None:
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        key = layout.layer_link(name, digest)
        with refusing():
            if await read_link(self._driver, key) is None:
                raise BlobUnknown(str(digest))
            await self._driver.delete([key])
