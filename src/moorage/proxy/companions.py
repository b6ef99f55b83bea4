"""Companions of a new image: the manifests that refer to it (signatures, SBOMs), fetched behind the answer.

So that they are there when the upstream registry is not.  Bounded: as many images at once, and as many referrers
of each, as the constants state, and only their small blobs.  A failure is logged, and changes no answer.

Above: `registry.py`.  Below: `manifests.py`, `fills.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import RegistryError
from moorage.proxy.spool import SpoolUnusable
from moorage.registry import media
from moorage.upstream.errors import UpstreamError, UpstreamMissing

if TYPE_CHECKING:
    from moorage.proxy.fills import Fills
    from moorage.proxy.manifests import MirroredManifests
    from moorage.proxy.upstreams import Place
    from moorage.registry.interface import Manifest

__all__ = ["Companions"]

_AT_ONCE: Final = 2
_WAITING: Final = 1000
_REFERRERS: Final = 50
_BLOB_BYTES: Final = 4 << 20
_log: Final = structlog.get_logger("moorage.proxy")


class Companions:
    """Fetches referrers in the background.  `manifests` is set before the first `note`."""

    manifests: MirroredManifests

    def __init__(self, fills: Fills) -> None:
        self._fills = fills
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def note(self, place: Place, manifest: Manifest) -> None:
        """Fetch the referrers of a manifest later; more than a thousand that wait are left out."""
        if len(self._tasks) >= _WAITING:
            return
        task = asyncio.create_task(self._fetch(place, manifest), name=f"referrers of {manifest.digest}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, place: Place, manifest: Manifest) -> None:
        async with self._turns:
            try:
                for referrer in (await place.list_referrers(manifest.digest))[:_REFERRERS]:
                    found = await self.manifests.by_digest(place, referrer.digest)
                    await self._fetch_blobs(place, found)
            except UpstreamMissing:
                return
            except (UpstreamError, RegistryError, SpoolUnusable) as error:
                _log.info(
                    "referrers of an image could not be fetched; they are when a client requests them",
                    upstream=place.host, repository=place.local, digest=str(manifest.digest), cause=str(error),
                )  # fmt: skip

    async def _fetch_blobs(self, place: Place, manifest: Manifest) -> None:
        for blob in media.parse(manifest.data, manifest.media_type).blobs:
            if blob.size is not None and blob.size <= _BLOB_BYTES:
                await self._fills.fetch(place, blob.digest)

    async def close(self) -> None:
        """Cancel what is being fetched."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
