"""Uploads into local repositories; those into mirrored ones are refused.

Above: `registry.py`.  Below: `upstreams.py`; `registry/interface.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.proxy.blobs import refuse_write

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from moorage.proxy.upstreams import Upstreams
    from moorage.registry.interface import UploadPart, Uploads, UploadStatus
    from moorage.types import Digest, RepoName

__all__ = ["MirroredUploads"]


class MirroredUploads:
    """See `interface.Uploads`."""

    def __init__(self, inner: Uploads, upstreams: Upstreams) -> None:
        self._inner = inner
        self._upstreams = upstreams

    def _require_local(self, name: RepoName) -> None:
        place = self._upstreams.place_of(name)
        if place is not None:
            raise refuse_write(place)

    async def start(
        self, name: RepoName, *, algorithm: str = "sha256", digest: Digest | None = None
    ) -> UploadStatus:
        self._require_local(name)
        return await self._inner.start(name, algorithm=algorithm, digest=digest)

    async def status(self, name: RepoName, uuid: str) -> UploadStatus:
        self._require_local(name)
        return await self._inner.status(name, uuid)

    def extend(
        self,
        name: RepoName,
        uuid: str,
        state: str,
        *,
        start: int | None = None,
        algorithm: str = "sha256",
        length: int | None = None,
        digest: Digest | None = None,
    ) -> AbstractAsyncContextManager[UploadPart]:
        self._require_local(name)
        return self._inner.extend(
            name, uuid, state, start=start, algorithm=algorithm, length=length, digest=digest
        )

    async def cancel(self, name: RepoName, uuid: str, state: str) -> None:
        self._require_local(name)
        await self._inner.cancel(name, uuid, state)
