"""Copy of one image: children before parents, content before manifests, the tag last; only what is missing.

    source                                     target
    resolve(tag) = D                           manifest D there?   its children and blobs are looked up, not sent
    get_manifest(D)
      children of the selected platforms  ──►  each with its blobs, then its manifest
      blobs                               ──►  mounted or streamed, several at once
                                               manifest D, by digest
      referrers of D and of its children  ──►  each with its content
                                               the tag

The tag of the source is resolved once, so that a tag that moves during the copy gives the old image or the new
one, whole.  An index keeps its bytes also where only some of its platforms are copied.

Above: `sync.py`, `cli/copy.py`, `bundle/`.  Below: `blobs.py`, `endpoints.py`, `registry/media.py`.
Source: distribution-spec 1.1 "Pushing Manifests", "Listing Referrers"; cosign's signature specification (tags).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from moorage.backoff import Backoff, equal_jitter
from moorage.errors import ManifestBlobUnknown, ManifestUnknown, NameUnknown
from moorage.replication.blobs import BlobTransfers
from moorage.replication.errors import ImageIncomplete, ImageMissing, TagMoved, TargetRefused
from moorage.replication.failures import is_temporary, retry_after_s
from moorage.replication.image_tree import ImageTree
from moorage.replication.progress import CopyResult, SilentProgress
from moorage.replication.requests import ReplicationOptions
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.replication.endpoints import ImageSource, ImageTarget
    from moorage.replication.progress import ReplicationProgress
    from moorage.replication.requests import CopyRequest

__all__ = ["ImageCopier", "copy_image"]

_MOVES: Final = 5
_LONGEST_WAIT_S: Final = 60.0
"""A registry that asks for more is not waited for: the next run continues."""
_BACKOFF: Final = Backoff.exponential(1.0, 15.0)


async def copy_image(
    source: ImageSource,
    target: ImageTarget,
    request: CopyRequest,
    options: ReplicationOptions | None = None,
    progress: ReplicationProgress | None = None,
) -> CopyResult:
    """Copy one image; see `ImageCopier.copy`."""
    copier = ImageCopier(source, target, options, progress)
    try:
        return await copier.copy(request)
    finally:
        await copier.close()


class ImageCopier:
    """Copies images from one source to one target; blobs that they share are sent once."""

    def __init__(
        self,
        source: ImageSource,
        target: ImageTarget,
        options: ReplicationOptions | None = None,
        progress: ReplicationProgress | None = None,
        *,
        images_at_once: int = 1,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._target = target
        self._options = options or ReplicationOptions()
        self._sleep = sleep
        self._blobs = BlobTransfers(
            source,
            target,
            at_once=self._options.blobs_at_once * images_at_once,
            rate=self._options.rate,
            progress=progress or SilentProgress(),
            dry_run=self._options.dry_run,
            sleep=sleep,
        )

    async def close(self) -> None:
        """End transfers that a cancelled copy has left."""
        await self._blobs.close()

    async def copy(self, request: CopyRequest) -> CopyResult:
        """Copy an image, and tag it when all of it is in the target.

        Raises ReplicationError, UpstreamError, RegistryError; the tag is then unchanged, and what was copied until
        then stays, so that another call continues.
        """
        attempt = 0
        while True:
            attempt += 1
            digest = await self._resolve(request, attempt)
            try:
                return await self._copy(request, digest, recheck=self._options.recheck or attempt > 1)
            except (ImageIncomplete, ImageMissing):
                if not await self._has_moved(request, digest):
                    raise
                if attempt >= _MOVES:
                    message = f"{self._source.title}: {request.source_text} is moved again and again; try later"
                    raise TagMoved(message) from None
            except ManifestBlobUnknown as error:  # the target has lost content that it had a moment ago
                if attempt >= self._options.attempts:
                    raise TargetRefused(f"{self._target.title} misses content of {digest}: {error}") from error
            except Exception as error:  # noqa: BLE001  raised unless another attempt may succeed
                await self._wait_or_raise(error, attempt)

    async def _resolve(self, request: CopyRequest, attempt: int) -> Digest:
        if isinstance(request.source_reference, Digest):
            return request.source_reference
        while True:
            try:
                return await self._source.resolve(request.source_name, request.source_reference)
            except (ManifestUnknown, NameUnknown):
                raise ImageMissing(f"{self._source.title} has no {request.source_text}") from None
            except Exception as error:  # noqa: BLE001  raised unless another attempt may succeed
                await self._wait_or_raise(error, attempt)
                attempt += 1

    async def _wait_or_raise(self, error: Exception, attempt: int) -> None:
        """Wait before another attempt; raise `error` if there is none."""
        delay_s = retry_after_s(error)
        if not is_temporary(error) or attempt >= self._options.attempts or (delay_s or 0) > _LONGEST_WAIT_S:
            raise error
        await self._sleep(equal_jitter(_BACKOFF.delay_s(attempt)) if delay_s is None else delay_s)

    async def _has_moved(self, request: CopyRequest, digest: Digest) -> bool:
        """Return whether the tag is another image by now, so that the old one may be gone."""
        if isinstance(request.source_reference, Digest):
            return False
        return await self._resolve(request, 1) != digest

    async def _copy(self, request: CopyRequest, digest: Digest, *, recheck: bool) -> CopyResult:
        tree = ImageTree(self._source, self._target, self._blobs, request, self._options, recheck=recheck)
        name, tag = request.target_name, request.target_tag
        before = None if tag is None else await self._target.resolve(name, tag)
        top = await tree.copy_content(digest)
        subjects = await tree.find_referrers() if request.referrers else []
        # A tag alone would name the manifest by its sha256 digest.
        if subjects or tag is None or digest.algorithm != "sha256":
            await tree.put(top)
        await tree.copy_referrers(subjects)
        tagged = tag is not None and before not in {digest, Digest.of(top.manifest.data)}
        if tag is not None and (tagged or not top.stored):
            await tree.put(top, tag)
        return CopyResult(digest, tagged, before, tree.counts)
