"""Blobs of a copy: looked up, mounted from another repository of the target, or streamed, each once at a time.

Bytes go from the source's connection to the target's; nothing is written to a local disk.  A source that cuts a
body is asked for the rest, as long as each attempt brings bytes.

Above: `images.py`.  Below: `endpoints.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from moorage.backoff import Backoff, equal_jitter
from moorage.caches import LRUCache
from moorage.coalescing import SingleFlight
from moorage.errors import BlobUnknown, DigestInvalid, NameUnknown, RegistryError
from moorage.replication.errors import ImageIncomplete, SourceDamaged, TargetRefused
from moorage.replication.failures import is_temporary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from moorage.replication.endpoints import ImageSource, ImageTarget
    from moorage.replication.progress import CopyCounts, ReplicationProgress
    from moorage.replication.rate import RateLimit
    from moorage.types import Digest, RepoName

__all__ = ["BlobTransfers", "verified"]

_PLACES: Final = 100_000
"""Blobs whose repository in the target is remembered, for mounts."""
_RESUMES: Final = 5
_BACKOFF: Final = Backoff.exponential(0.5, 8.0)


async def verified(chunks: AsyncIterator[bytes], digest: Digest, size: int) -> AsyncIterator[bytes]:
    """Pass `chunks` on, the last one only when all bytes have the digest and the size.  Raises DigestInvalid."""
    hasher = hashlib.new(digest.algorithm)
    passed = 0
    async for chunk in chunks:
        hasher.update(chunk)
        passed += len(chunk)
        if passed > size or (passed == size and hasher.hexdigest() != digest.hex):
            break
        yield chunk
    if passed != size or hasher.hexdigest() != digest.hex:
        raise DigestInvalid(f"the {passed} bytes that were received are not the {size} of {digest}")


class BlobTransfers:
    """Copies blobs of any number of images, a bounded number at a time."""

    def __init__(
        self,
        source: ImageSource,
        target: ImageTarget,
        *,
        at_once: int,
        rate: RateLimit | None,
        progress: ReplicationProgress,
        dry_run: bool,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._source = source
        self._target = target
        self._rate = rate
        self._progress = progress
        self._dry_run = dry_run
        self._sleep = sleep
        self._slots = asyncio.Semaphore(at_once)
        self._running: SingleFlight[tuple[RepoName, Digest], None] = SingleFlight("copy of a blob")
        self._places: LRUCache[Digest, RepoName] = LRUCache(_PLACES)

    async def close(self) -> None:
        """End the transfers that are still running."""
        await self._running.close()

    async def ensure(
        self,
        names: tuple[RepoName, RepoName],
        digest: Digest,
        size: int | None,
        counts: CopyCounts,
        mount_from: RepoName | None,
    ) -> None:
        """Make the blob of `names[0]` of the source one of `names[1]` of the target.

        Raises ImageIncomplete, SourceDamaged, TargetRefused, or the failure of a connection.
        """
        key = (names[1], digest)
        if key in self._running:  # of another image; it counts there
            await self._running.run(key, lambda: self._ensure(names, digest, size, counts, mount_from))
            counts.present += 1
        else:
            await self._running.run(key, lambda: self._ensure(names, digest, size, counts, mount_from))

    async def _ensure(
        self,
        names: tuple[RepoName, RepoName],
        digest: Digest,
        size: int | None,
        counts: CopyCounts,
        mount_from: RepoName | None,
    ) -> None:
        _, name = names
        async with self._slots:
            if await self._target.has_blob(name, digest):
                counts.present += 1
            elif await self._mount(name, digest, mount_from):
                counts.mounted += 1
            else:
                sent = await self._send(names, digest, size)
                counts.blobs += 1
                counts.blob_bytes += sent
        self._places.put(digest, name)

    async def _mount(self, name: RepoName, digest: Digest, mount_from: RepoName | None) -> bool:
        """Mount the blob from the source's repository, or from one that this run has filled."""
        for place in dict.fromkeys((mount_from, self._places.get(digest))):
            if place is None or place == name:
                continue
            if self._dry_run or await self._target.mount_blob(name, digest, place):
                return True
        return False

    async def _send(self, names: tuple[RepoName, RepoName], digest: Digest, size: int | None) -> int:
        found, name = names
        where = f"{self._source.title}: {found}@{digest}"
        try:
            if size is None or self._dry_run:
                size = await self._source.stat_blob(found, digest)
        except (BlobUnknown, NameUnknown):
            raise ImageIncomplete(_absent(where)) from None
        self._progress.planned(size)
        if not self._dry_run:
            try:
                async with aclosing(self._bytes(found, digest, where)) as chunks:
                    await self._target.put_blob(name, digest, size, chunks)
            except DigestInvalid as error:
                raise SourceDamaged(f"{where}: {error.subject or error}; nothing was stored of it") from None
            except RegistryError as error:
                if is_temporary(error):
                    raise
                raise TargetRefused(f"{self._target.title} refuses a blob of {name}: {error}", error) from error
        return size

    async def _bytes(self, name: RepoName, digest: Digest, where: str) -> AsyncGenerator[bytes]:
        """Yield the bytes of the source's blob, in several requests if it cuts the body."""
        passed = 0
        failures = 0
        while True:
            at = passed
            try:
                async with self._source.open_blob(name, digest, start=passed) as chunks:
                    async for chunk in chunks:
                        if self._rate is not None:
                            await self._rate.take(len(chunk))
                        passed += len(chunk)
                        self._progress.moved(len(chunk))
                        yield chunk
            except (BlobUnknown, NameUnknown):
                raise ImageIncomplete(_absent(where)) from None
            except Exception as error:
                failures = failures + 1 if passed == at else 1
                if not is_temporary(error) or failures >= _RESUMES:
                    raise
                await self._sleep(equal_jitter(_BACKOFF.delay_s(failures)))
            else:
                return


def _absent(where: str) -> str:
    return f"{where} is missing, though the image names it; push the image to the source again"
