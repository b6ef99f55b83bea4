"""The registry of a mirror: `interface.Registry`, for mirrored and local repositories side by side.

Above: `wiring/proxy.py`.  Below: `blobs.py`, `manifests.py`, `lists.py`, `uploads.py`, `companions.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from moorage.proxy.blobs import MirroredBlobs
from moorage.proxy.companions import Companions
from moorage.proxy.counts import MirrorCounts
from moorage.proxy.fills import Fills
from moorage.proxy.lists import MirroredReferrers, MirroredRepositories, MirroredTags
from moorage.proxy.manifests import MirroredManifests
from moorage.proxy.uploads import MirroredUploads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.proxy.checks import TagChecks
    from moorage.proxy.spool import Spool
    from moorage.proxy.upstreams import Upstreams
    from moorage.registry.interface import Registry
    from moorage.registry.mirrored import MirroredContent

__all__ = ["MirrorRegistry"]

_CLEANING_S: Final = 3600.0
_log: Final = structlog.get_logger("moorage.proxy")


class MirrorRegistry:
    """See `interface.Registry`.  `inner` has what is stored; `close` closes it and the upstream clients as well.

    `unread_s`: how long a download without readers continues.  `companions`: fetch the referrers of new tags.
    """

    def __init__(
        self,
        inner: Registry,
        upstreams: Upstreams,
        content: MirroredContent,
        spool: Spool,
        checks: TagChecks,
        *,
        unread_s: float = 300.0,
        companions: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner = inner
        self._upstreams = upstreams
        self._spool = spool
        self._checks = checks
        self.counts = MirrorCounts()
        self.fills = Fills(spool, content, unread_s=unread_s, counts=self.counts, sleep=sleep)
        self.blobs = MirroredBlobs(inner.blobs, upstreams, self.fills, self.counts)
        self.uploads = MirroredUploads(inner.uploads, upstreams)
        self._companions = Companions(self.fills)
        self.manifests = MirroredManifests(
            inner.manifests,
            upstreams,
            content,
            checks,
            self.counts,
            fetched=self._companions.note if companions else lambda *_: None,
        )
        self._companions.manifests = self.manifests
        self.tags = MirroredTags(inner.tags, upstreams)
        self.referrers = MirroredReferrers(inner.referrers, upstreams)
        self.repositories = MirroredRepositories(inner.repositories, upstreams)

    async def run(self) -> None:
        """Remove abandoned files of the spool now and then, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self._spool.remove_abandoned)
                await asyncio.to_thread(self._checks.remove_abandoned)
            except OSError as error:
                _log.error("the spool of the mirror cannot be cleaned", cause=str(error))
            await asyncio.sleep(_CLEANING_S)

    async def probe(self) -> None:
        """Check the store; a mirror works without its upstream registries."""
        await self._inner.probe()

    async def close(self) -> None:
        await self._companions.close()
        await self.manifests.close()
        await self.tags.close()
        await self.fills.close()
        await self._upstreams.close()
        await self._inner.close()
