"""Blobs: bytes named by their digest, stored once, visible through each repository.

The bytes are stored once for the whole registry; a repository owns a link to them (`layout.py` draws both keys).
A blob that exists but is not linked from the requested repository is BLOB_UNKNOWN, so that one tenant cannot probe
the content of another.

The link is read for every request, or was a moment ago if the store is remote (`links.py`): no request
that comes after an acknowledged deletion, at any worker or node, finds it.  The size, which the digest makes
immutable, is remembered (`sizes.py`), and compared with that of a file once a second; in an object store that
would be a request.  The existence of the bytes is checked when they are opened, so a GET costs at most one read of
a link, one stat, and one open.  An object of no bytes under the digest of other content is unknown like a missing
one, so that clients upload it again, and so is one that has another size than the remembered one and, when it is
read, another digest (`torn_blobs.py`).

`fetch` chooses the way of the bytes to the client:

    redirect    to the store, or where the last rule leads; asks for the link only
    bytes       a whole blob of at most 64 KiB, in one read
    open file   if the store has files and the caller can send them
    stream      everything else

Above: `http/blobs.py`.  Below: `storage/driver.py`, `storage/middleware/` (rules for redirects).
Source: distribution-spec 1.1, "Pulling blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from moorage.caches import Recent
from moorage.errors import BlobUnknown, Unavailable, Unsupported
from moorage.registry import layout
from moorage.registry.interface import UNKNOWN_CALLER, Blob, Deleted, FoundBlob, Mounted, Redirect
from moorage.registry.links import LAYER, Links
from moorage.registry.sizes import MemorySizes
from moorage.registry.storage_errors import refuse, refusing
from moorage.registry.torn_blobs import TornBlobs
from moorage.storage.driver import KeyMissing, ObjectTooLarge, RangeOutside, RequestCost, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from io import FileIO

    from moorage.registry.interface import Caller
    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import Driver
    from moorage.storage.middleware.rule import Rule
    from moorage.types import Digest, RepoName

__all__ = ["StoredBlobs"]

_CONFIRMED_S: Final = 1.0
"""Seconds for which a cached size is not compared with the store, which costs 3.5 us (6% of a HEAD)."""
_WHOLE_BYTES: Final = 64 << 10


class StoredBlobs:
    """See `interface.Blobs`.

    `redirects`: clients may be redirected to the store, or where the last of `rules` leads.  Sizes in `confirmed`
    are not compared with those of files.
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
        self._redirects = redirects and (driver.signs_urls or any(rule.makes for rule in rules))
        self._expires_s = redirect_expires_s
        self._rules = rules

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        try:
            stored = await self._links.recent(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            return Blob(digest, await self._size(stored))
        except StorageError as error:
            refuse(error)

    async def fetch(
        self,
        name: RepoName,
        digest: Digest,
        *,
        select: Callable[[int], range | None] | None = None,
        redirect: bool = True,
        files: bool = False,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Redirect | FoundBlob:
        try:
            # The digest that the bytes are stored under is another one for the sha512 links of CNCF Distribution,
            # which name a sha256 digest.
            stored = await self._links.recent(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            if redirect and self._redirects and (found := await self._redirect(stored, caller)) is not None:
                return found
            size = await self._size(stored)
            span = None if select is None else select(size)
            if span is None and size <= _WHOLE_BYTES:
                return FoundBlob(size, None, await self._read(digest, stored, size))
            if files and (file := await self._open_file(digest, stored, size)) is not None:
                return FoundBlob(size, span, file)
        except StorageError as error:
            refuse(error)
        return FoundBlob(size, span, self._open(digest, stored, size, span or range(size)))

    async def _redirect(self, stored: Digest, caller: Caller) -> Redirect | None:
        key = layout.blob_data(stored)
        found = await self._driver.handover(key, method="GET", expires_s=self._expires_s)
        for rule in self._rules:
            found = await rule.apply(found, key, caller.address)
        return None if found is None else Redirect(found.url)

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

    async def _differs(self, digest: Digest, stored: Digest, size: int) -> BlobUnknown | Unavailable:
        """Return the refusal for a blob whose size in storage is not `size`: unknown if it is torn.

        Raised before the first byte is sent, so that no response is torn.
        """
        found = await self._proven(stored)
        if found is None:
            return BlobUnknown(str(digest))
        return Unavailable(f"{stored} has {found} bytes and not {size}; ask again")

    @asynccontextmanager
    async def _open(
        self, digest: Digest, stored: Digest, size: int, span: range
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        with refusing():
            try:
                key = layout.blob_data(stored)
                async with self._driver.open(key, start=span.start, stop=span.stop) as reader:
                    if reader.stat.size != size:
                        raise await self._differs(digest, stored, size)
                    yield aiter(reader)
            except RangeOutside as error:
                raise await self._differs(digest, stored, size) from error
            except KeyMissing:
                await self._sizes.forget(stored)
                raise BlobUnknown(str(digest)) from None

    async def _read(self, digest: Digest, stored: Digest, size: int) -> bytes:
        try:
            data = (await self._driver.read(layout.blob_data(stored), limit=size)).data
            if len(data) == size:
                return data
        except ObjectTooLarge:
            pass
        except KeyMissing:
            await self._sizes.forget(stored)
            raise BlobUnknown(str(digest)) from None
        raise await self._differs(digest, stored, size)

    async def _open_file(self, digest: Digest, stored: Digest, size: int) -> FileIO | None:
        try:
            found = await self._driver.open_file(layout.blob_data(stored))
        except KeyMissing:
            await self._sizes.forget(stored)
            raise BlobUnknown(str(digest)) from None
        if found is None:
            return None
        if found.size != size:
            found.file.close()
            raise await self._differs(digest, stored, size)
        return found.file

    async def mount(
        self,
        name: RepoName,
        digest: Digest,
        source: RepoName | None,
        *,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Mounted:
        del caller
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
            await self._links.set(LAYER, name, digest, stored)
            return Mounted(digest, size, source)

    async def delete(self, name: RepoName, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        del caller
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            stored = await self._links.current(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            await self._links.remove(LAYER, name, digest, stored)
            return Deleted(digest)
