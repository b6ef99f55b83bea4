"""Content of an upstream registry, kept in the store: blobs of downloaded files, manifests without their layers.

Every byte has been compared with its digest by the caller.  A manifest is stored as it comes, before its layers
and children, which clients may never request.  Beside a garbage collection the same order holds as for uploads
(`uploads.py`): a link counts only when `CollectionGate.confirm` has accepted it.

Above: `proxy/`.  Below: `blob_store.py`, `links.py`, `manifests.py`, `collection_gate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.errors import Unavailable
from moorage.registry.blob_store import Purpose
from moorage.registry.links import LAYER, REVISION
from moorage.registry.storage_errors import refusing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.registry.blob_store import BlobStore
    from moorage.registry.collection_gate import CollectionGate
    from moorage.registry.interface import Manifest
    from moorage.registry.links import Links
    from moorage.registry.manifests import StoredManifests
    from moorage.types import Digest, RepoName, Tag

__all__ = ["MirroredContent"]


class MirroredContent:
    """Writes content of upstream registries.  `manifests` require nothing of what a manifest names.

    Methods raise Unavailable and StorageFull.
    """

    def __init__(self, store: BlobStore, links: Links, gate: CollectionGate, manifests: StoredManifests) -> None:
        self._store = store
        self._links = links
        self._gate = gate
        self._manifests = manifests

    async def has_link(self, name: RepoName, digest: Digest) -> bool:
        """Return whether the repository has the blob, or had it before its bytes were removed."""
        with refusing():
            return await self._links.recent(LAYER, name, digest) is not None

    async def has_manifest(self, name: RepoName, digest: Digest) -> bool:
        """Return whether the repository has the manifest."""
        with refusing():
            return await self._links.exists_recent(REVISION, name, digest)

    async def link_blob(self, name: RepoName, digest: Digest) -> int | None:
        """Link a blob that is in the store for any repository; return its size, None if it is not there.

        The caller knows from the upstream registry that its repository has the blob.
        """
        with refusing():
            begun = await self._gate.begin()
            if not await self._gate.admits(begun, name, digest):
                return None
            size = await self._store.rely(digest, Purpose.LINK)
            if size is None:
                return None
            await self._links.set(LAYER, name, digest)
            lost = await self._gate.confirm(begun, name, (digest,), {LAYER(name, digest): digest})
            return None if lost else size

    async def holds(self, digest: Digest) -> bool:
        """Return whether the bytes are in the store, for any repository."""
        with refusing():
            return await self._store.rely(digest, Purpose.LINK) is not None

    async def store_blob(self, name: RepoName, digest: Digest, path: str, size: int) -> None:
        """Make a local file, whose bytes have been proven, a blob of the repository, durably.

        The file is moved where the store is a directory of the same file system.
        """
        gate = self._gate
        with refusing():
            begun = await gate.begin()
            if not await gate.admits(begun, name, digest):
                await gate.settled(name, (digest,))
                begun = await gate.begin()
            await self._store.adopt(digest, path, size)
            await self._links.set(LAYER, name, digest)
            if await gate.confirm(begun, name, (digest,), {LAYER(name, digest): digest}):
                raise Unavailable(f"garbage collection removed {digest} before it was linked; request it again")

    async def store_manifest(self, name: RepoName, manifest: Manifest, tags: Sequence[Tag] = ()) -> None:
        """Store a manifest and set `tags` to it.  Raises ManifestInvalid for one that cannot be pushed here."""
        await self._manifests.put(name, manifest.digest, manifest.media_type, manifest.data, tags=tags)
