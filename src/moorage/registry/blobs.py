"""Blobs: bytes named by their digest, stored once, visible through each repository.

The bytes are stored once for the whole registry; a repository owns a link to them (`layout.py` draws both keys).
A blob that exists but is not linked from the requested repository is BLOB_UNKNOWN, so that one tenant cannot probe
the content of another.

The link is read for every request, or was within the lease of `links.py` where the store is remote: no request
that begins after an acknowledged deletion, on any worker or node, finds it.  The size is that of
`BlobStore.rely`.  The existence of the bytes is checked when they are opened, so a GET costs at most one read of a
link, one stat, and one open.  A blob that is torn (`blob_store.py`) is unknown like one that is missing, so that
clients upload it again.  So is one that garbage collection is removing, to HEAD and to a mount
(`collection_gate.py`): the client uploads the bytes; a GET returns those that are still there.

`fetch` chooses the way of the bytes to the client:

    redirect    to the store, or where the last rule leads; asks for the link only
    bytes       a whole blob of at most 64 KiB, in one read
    open file   if the store has files and the caller can send them
    stream      everything else

Above: `http/blobs.py`.  Below: `blob_store.py`, `links.py`, `collection_gate.py`; `storage/middleware/` (rules
for redirects).
Source: distribution-spec 1.1, "Pulling blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.errors import BlobUnknown, Unsupported
from moorage.registry.blob_store import BlobStore, Purpose
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.interface import UNKNOWN_CALLER, Blob, BlobRedirect, Deleted, FoundBlob, Mounted
from moorage.registry.links import LAYER, Links
from moorage.registry.storage_errors import refuse, refusing
from moorage.registry.trash import DELETED_BY_CLIENT
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.registry.collection_gate import CollectionSnapshot
    from moorage.registry.interface import Caller
    from moorage.registry.protection import ProtectionCheck
    from moorage.registry.trash import Trash
    from moorage.storage.driver import Driver
    from moorage.storage.middleware.rule import Rule
    from moorage.types import Digest, RepoName

__all__ = ["StoredBlobs"]

_WHOLE_BYTES: Final = 64 << 10


class StoredBlobs:
    """See `interface.Blobs`.

    `redirects`: clients may be redirected to the store, or where the last of `rules` leads.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        store: BlobStore | None = None,
        links: Links | None = None,
        gate: CollectionGate | None = None,
        redirects: bool = True,
        redirect_expires_s: int = 1200,
        rules: Sequence[Rule] = (),
        protected: ProtectionCheck | None = None,
        trash: Trash | None = None,
    ) -> None:
        self._trash = trash
        self._delete_enabled = delete_enabled
        self._store = BlobStore(driver) if store is None else store
        self._links = Links(driver) if links is None else links
        self._gate = CollectionGate(driver, self._store, self._links) if gate is None else gate
        self._redirects = redirects and (driver.signs_urls or any(rule.makes for rule in rules))
        self._expires_s = redirect_expires_s
        self._rules = rules
        self._protected = protected

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        try:
            begun = self._gate.recent() or await self._gate.begin()
            size: int | None = None
            if not begun.in_progress:  # as nearly always
                stored = await self._links.recent(LAYER, name, digest)
                if stored is not None:
                    size = await self._store.rely(stored)
            elif (stored := await self._admitted(begun, name, digest)) is not None:
                size = await self._store.rely(stored, Purpose.LINK)
            if size is None:
                raise BlobUnknown(str(digest))
            return Blob(digest, size)
        except StorageError as error:
            refuse(error)

    async def _admitted(self, begun: CollectionSnapshot, name: RepoName, digest: Digest) -> Digest | None:
        """Return the target of a link that a collector in progress leaves; None if there is none.

        The link is read once more, as it may have been removed before the rescue was recorded.
        """
        stored = await self._links.current(LAYER, name, digest)
        if stored is None or not await self._gate.admits(begun, name, digest, stored):
            return None
        return stored if await self._links.current(LAYER, name, digest) == stored else None

    async def fetch(
        self,
        name: RepoName,
        digest: Digest,
        *,
        select: Callable[[int], range | None] | None = None,
        redirect: bool = True,
        files: bool = False,
        caller: Caller = UNKNOWN_CALLER,
    ) -> BlobRedirect | FoundBlob:
        store = self._store
        try:
            # The digest that the bytes are stored under is another one for the sha512 links of CNCF Distribution,
            # which name a sha256 digest.
            stored = await self._links.recent(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            if redirect and self._redirects:
                url = await store.signed_url(
                    stored, client=caller.address, expires_s=self._expires_s, rules=self._rules
                )
                if url is not None:
                    return BlobRedirect(url)
            size = await store.rely(stored)
            if size is None:
                raise BlobUnknown(str(digest))
            span = None if select is None else select(size)
            if span is None and size <= _WHOLE_BYTES:
                return FoundBlob(size, None, await store.read(stored, size, requested=digest))
            if files and (file := await store.open_file(stored, size, requested=digest)) is not None:
                return FoundBlob(size, span, file)
        except StorageError as error:
            refuse(error)
        return FoundBlob(size, span, store.open(stored, size, span or range(size), requested=digest))

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
            begun = await self._gate.begin()
            stored: Digest | None = digest
            if source is not None and begun.in_progress:
                stored = await self._admitted(begun, source, digest)
            elif source is not None:
                stored = await self._links.recent(LAYER, source, digest)
            if stored is None or not await self._gate.admits(begun, name, digest, stored):
                raise BlobUnknown(str(digest))
            size = await self._store.rely(stored, Purpose.LINK)
            if size is None:
                raise BlobUnknown(str(digest))
            await self._links.set(LAYER, name, digest, stored)
            if await self._gate.confirm(begun, name, (stored,), {LAYER(name, digest): digest}):
                raise BlobUnknown(str(digest))
            return Mounted(digest, size, source)

    async def delete(
        self,
        name: RepoName,
        digest: Digest,
        *,
        caller: Caller = UNKNOWN_CALLER,
        reason: str = DELETED_BY_CLIENT,
    ) -> Deleted:
        """See `interface.Blobs`.  `reason` is recorded with the deletion."""
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            stored = await self._links.current(LAYER, name, digest)
            if stored is None:
                raise BlobUnknown(str(digest))
            if self._protected is not None:
                await self._protected.check_deletion(name, digest)
            if self._trash is not None:
                await self._trash.add_layer(name, digest, stored, by=caller.user, reason=reason)
            await self._links.remove(LAYER, name, digest, stored)
            return Deleted(digest)
