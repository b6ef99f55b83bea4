"""Contents of manifests: read from the blob store, verified by their digest, and kept in memory.

Above: `manifests.py`, `tag_list.py`.  Below: `blob_store.py`, `unserved_manifests.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import LRUCache
from moorage.errors import ManifestInvalid, ManifestUnknown
from moorage.registry import media
from moorage.registry.interface import Manifest
from moorage.registry.offload import Offload
from moorage.registry.unserved_manifests import UnservedManifests
from moorage.storage.driver import KeyMissing, ObjectTooLarge
from moorage.types import Digest

if TYPE_CHECKING:
    from moorage.registry.blob_store import BlobStore

__all__ = ["MANIFESTS_BYTES", "ManifestContents"]

MANIFESTS_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 1024
"""Cost of a remembered manifest beside its bytes: a million tiny ones must not fill the memory either."""

_PROVEN: Final = 20_000
"""Manifests known to be whole, about 0.5 kB each, so that a list of tags does not read them every time."""

_DAMAGED: Final = 1_000
"""Damaged manifests that were logged: one that is requested all day is worth one line."""

_log: Final = structlog.get_logger("moorage.registry")


class ManifestContents:
    """Manifests of one blob store, for every repository.  Bytes of up to `cache_bytes` stay in memory.

    Methods raise StorageUnavailable.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        cache_bytes: int = MANIFESTS_BYTES,
        unserved: UnservedManifests | None = None,
        offload: Offload | None = None,
    ) -> None:
        self._store = store
        self._unserved = UnservedManifests(store) if unserved is None else unserved
        self._offload = Offload() if offload is None else offload
        self.cache: LRUCache[Digest, Manifest] = LRUCache(cache_bytes)
        self._proven: LRUCache[Digest, int] = LRUCache(_PROVEN)
        self._damaged: LRUCache[Digest, bool] = LRUCache(_DAMAGED)

    def keep(self, manifest: Manifest) -> None:
        """Keep a manifest that was pushed a moment ago."""
        self.cache.put(manifest.digest, manifest, len(manifest.data) + _ENTRY_BYTES)

    def drop(self, digest: Digest) -> None:
        """Drop a manifest that was deleted; its bytes are read again if another repository has it."""
        self.cache.drop(digest)

    async def load(self, digest: Digest) -> Manifest:
        """Return the manifest, of any repository; its bytes are those of `digest`.

        Raises ManifestUnknown if they are missing, torn, or of a kind that is not served (schema 1).
        """
        manifest = self.cache.get(digest)
        return await self.read(digest) if manifest is None else manifest

    async def read(self, digest: Digest) -> Manifest:
        """Return what `load` does, from the store."""
        try:
            data = await self._store.content(digest)
            actual = await self._offload.run(len(data), lambda: Digest.of(data, digest.algorithm))
            damage = "" if actual == digest else "its bytes are not those of its digest"
        except (KeyMissing, ObjectTooLarge) as error:
            damage = "its bytes are missing" if isinstance(error, KeyMissing) else "its bytes are too many"
        if damage:
            if self._damaged.get(digest) is None:
                self._damaged.put(digest, value=True)
                _log.error(
                    "a manifest is damaged and not served; pushing it again repairs it",
                    digest=str(digest),
                    why=damage,
                )
            raise ManifestUnknown(str(digest))
        try:
            media_type = await self._offload.run(len(data), lambda: media.stored_type(data))
        except ManifestInvalid as error:
            raise ManifestUnknown(f"{digest}: it is stored, but {error.subject}") from error
        manifest = Manifest(digest, media_type, data)
        self.keep(manifest)
        self._proven.put(digest, len(data))
        return manifest

    async def is_served(self, digest: Digest) -> bool | None:
        """Return whether `load` would return the manifest, without reading it; None if only `prove` can decide.

        A manifest in memory is served without a request to the store.  One that was proven before and has dropped
        out of the memory is served while the store has as many bytes under its digest.  One that was read and is
        not served is not read again while the object is the same (`unserved_manifests.py`).
        """
        if digest in self.cache:
            return True
        size = self._proven.get(digest)
        if size is None:
            return False if await self._unserved.holds(digest) else None
        stat = await self._store.stat(digest)
        if stat is not None and stat.size == size:
            return True
        self._proven.drop(digest)
        return False

    async def prove(self, digest: Digest) -> bool:
        """Return whether `load` returns the manifest, by reading it."""
        began = self._unserved.now()
        try:
            await self.load(digest)
        except ManifestUnknown:
            await self._unserved.note(digest, began)
            return False
        return True
