"""A registry with quotas: another registry, and the checks before what would exceed a limit.

Repositories that no limit covers, and everything that only reads, go to the other registry directly.

    POST of an upload    refused where nothing is left at all
    PATCH, PUT, POST     refused before the body where its announced length does not fit; one of unknown length is
                         cut at the limit.  The upload is removed then, so that its bytes are free again
    mount, manifest      refused where the blob or manifest, or a new tag, does not fit

What the repository has already is never refused.  An upload whose digest is announced by its last request only
counts as new until then; clients ask with HEAD first and do not send what is there.

To count what is new, the link of a blob or manifest is looked up before it is written: one `stat`, unless a HEAD
to this process found a moment ago that it is not there, as that of every client does.  Under a limit of tags, so
is the tag.  A deletion reads the size of what it deletes.

Above: `wiring/app.py`.  Below: `usage.py`; `registry/interface.py`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from moorage.concurrency import map_bounded
from moorage.errors import BlobUnknown, DigestInvalid, ManifestUnknown, QuotaExceeded, RegistryError
from moorage.quota.checks import QuotaChecks
from moorage.quota.count import linked_digests, living_tags
from moorage.quota.facts import TAG, UPLOAD, Thing
from moorage.registry.interface import UNKNOWN_CALLER
from moorage.registry.links import LAYER, REVISION
from moorage.registry.storage_errors import refusing
from moorage.registry.tags import as_tag
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from moorage.quota.usage import Usage
    from moorage.registry.interface import (
        Blob,
        BlobRedirect,
        Blobs,
        Caller,
        Deleted,
        FoundBlob,
        IfMatch,
        Manifest,
        Manifests,
        Mounted,
        Page,
        Pushed,
        Referrers,
        Registry,
        Repositories,
        Tags,
        Uploaded,
        UploadPart,
        Uploads,
        UploadStatus,
    )
    from moorage.storage.driver import Driver
    from moorage.types import Reference, RepoName, Tag

__all__ = ["LimitedRegistry"]


class LimitedRegistry:
    """See `interface.Registry`.  `inner` stores in `driver`; `close` closes it as well."""

    def __init__(self, inner: Registry, driver: Driver, usage: Usage) -> None:
        self._inner = inner
        self._usage = usage
        quota = QuotaChecks(driver, usage)
        self.repositories: Repositories = _LimitedRepositories(inner.repositories, quota)
        self.blobs: Blobs = _LimitedBlobs(inner.blobs, quota)
        self.uploads: Uploads = _LimitedUploads(inner.uploads, quota)
        self.manifests: Manifests = _LimitedManifests(inner.manifests, quota)

    @property
    def tags(self) -> Tags:
        return self._inner.tags

    @property
    def referrers(self) -> Referrers:
        return self._inner.referrers

    async def probe(self) -> None:
        await self._inner.probe()

    async def close(self) -> None:
        await self._usage.close()
        await self._inner.close()


class _LimitedRepositories:
    """See `interface.Repositories`."""

    def __init__(self, inner: Repositories, quota: QuotaChecks) -> None:
        self._inner = inner
        self._quota = quota

    async def list(self, *, last: str = "", limit: int) -> Page:
        return await self._inner.list(last=last, limit=limit)

    async def delete(self, name: RepoName, *, caller: Caller = UNKNOWN_CALLER) -> object:
        quota = self._quota
        if not quota.covers(name):
            return await self._inner.delete(name, caller=caller)
        await quota.usage.ready(name)
        with refusing():
            digests = await linked_digests(quota.driver, name)
            tags = [tag async for tag in living_tags(quota.driver, name)] if quota.counts_tags(name) else []
        deleted = await self._inner.delete(name, caller=caller)
        for tag in tags:
            quota.usage.record(Thing(TAG, name, tag), 1, 0)
        # The bytes are there until a collection, so the client does not wait for their sizes.
        quota.usage.spawn(self._free(name, digests))
        return deleted

    async def _free(self, name: RepoName, digests: Collection[Digest]) -> None:
        async def free(digest: Digest) -> None:
            self._quota.unlinked(name, digest, await self._quota.size_of(name, digest))

        await map_bounded(digests, free)


class _LimitedBlobs:
    """See `interface.Blobs`."""

    def __init__(self, inner: Blobs, quota: QuotaChecks) -> None:
        self._inner = inner
        self._quota = quota

    async def stat(self, name: RepoName, digest: Digest) -> Blob:
        try:
            return await self._inner.stat(name, digest)
        except BlobUnknown:
            if self._quota.covers(name):
                self._quota.not_there(name, digest)
            raise

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
        return await self._inner.fetch(name, digest, select=select, redirect=redirect, files=files, caller=caller)

    async def mount(
        self,
        name: RepoName,
        digest: Digest,
        source: RepoName | None,
        *,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Mounted:
        quota = self._quota
        if not quota.covers(name):
            return await self._inner.mount(name, digest, source, caller=caller)
        await quota.usage.ready(name)
        has = await quota.has(LAYER, name, digest)
        size = 0
        if not has:
            with refusing():
                size = await quota.size_of(name if source is None else source, digest)
            quota.require(name, size)
        quota.usage.hold(name, size)
        try:
            mounted = await self._inner.mount(name, digest, source, caller=caller)
            quota.linked(name, digest, mounted.size, new=not has)
        finally:
            quota.usage.hold(name, -size)
        return mounted

    async def delete(self, name: RepoName, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        quota = self._quota
        if not quota.covers(name):
            return await self._inner.delete(name, digest, caller=caller)
        await quota.usage.ready(name)
        size = 0
        with suppress(BlobUnknown):  # torn: the link can be deleted, and counts with what is there
            size = (await self._inner.stat(name, digest)).size
        deleted = await self._inner.delete(name, digest, caller=caller)
        quota.unlinked(name, digest, size)
        return deleted


class _LimitedUploads:
    """See `interface.Uploads`."""

    def __init__(self, inner: Uploads, quota: QuotaChecks) -> None:
        self._inner = inner
        self._quota = quota

    async def start(
        self, name: RepoName, *, algorithm: str = "sha256", digest: Digest | None = None
    ) -> UploadStatus:
        quota = self._quota
        if quota.covers(name):
            await quota.usage.ready(name)
            if digest is None or not await quota.has(LAYER, name, digest):
                quota.require(name, 1)
        return await self._inner.start(name, algorithm=algorithm, digest=digest)

    async def status(self, name: RepoName, uuid: str) -> UploadStatus:
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
        def inner() -> AbstractAsyncContextManager[UploadPart]:
            return self._inner.extend(
                name, uuid, state, start=start, algorithm=algorithm, length=length, digest=digest
            )

        return self._limited(inner, name, uuid, state, length, digest) if self._quota.covers(name) else inner()

    @asynccontextmanager
    async def _limited(
        self,
        inner: Callable[[], AbstractAsyncContextManager[UploadPart]],
        name: RepoName,
        uuid: str,
        state: str,
        length: int | None,
        digest: Digest | None,
    ) -> AsyncIterator[UploadPart]:
        quota = self._quota
        await quota.usage.ready(name)
        has = digest is not None and await quota.has(LAYER, name, digest)
        part = _LimitedPart(quota, name, uuid, has=has)
        try:
            try:
                part.hold(length or 0)
                async with inner() as part.inner:
                    yield part
            finally:
                part.leave()
        except QuotaExceeded:
            with suppress(RegistryError):  # the client gets the first error; the upload expires otherwise
                await self.cancel(name, uuid, state)
            raise

    async def cancel(self, name: RepoName, uuid: str, state: str) -> None:
        await self._inner.cancel(name, uuid, state)
        if self._quota.covers(name):
            thing = Thing(UPLOAD, name, uuid)
            self._quota.usage.record(thing, self._quota.usage.value(thing) or 0, 0)


class _LimitedPart:
    """See `interface.UploadPart`.  Holds bytes of the quota: announced ones, and those beyond as they come.

    Received bytes are counted as those of the upload, which the other processes see.  `has`: the repository has
    the blob already.
    """

    inner: UploadPart

    def __init__(self, quota: QuotaChecks, name: RepoName, uuid: str, *, has: bool) -> None:
        self._quota = quota
        self._name = name
        self._thing = Thing(UPLOAD, name, uuid)
        self._has = has
        self._held = 0
        self._offset = quota.usage.value(self._thing) or 0
        self._finished = False

    def hold(self, size: int) -> None:
        """Hold bytes that are not received yet.  Raises QuotaExceeded."""
        if size and not self._has:
            self._quota.require(self._name, size)
            self._quota.usage.hold(self._name, size)
            self._held += size

    async def write(self, chunk: bytes | Sequence[bytes]) -> None:
        size = len(chunk) if isinstance(chunk, bytes) else sum(map(len, chunk))
        if size > self._held:
            self.hold(size - self._held)
        await self.inner.write(chunk)
        released = min(size, self._held)
        self._held -= released
        self._quota.usage.hold(self._name, -released)
        self._count(self._offset + size)

    async def commit(self) -> UploadStatus:
        status = await self.inner.commit()
        if status.offset != self._offset:
            self._count(status.offset)
        return status

    async def finish(self, digest: Digest, *, caller: Caller = UNKNOWN_CALLER) -> Uploaded:
        try:
            uploaded = await self.inner.finish(digest, caller=caller)
        except DigestInvalid:
            self._finished = True
            raise
        self._finished = True
        self._offset = uploaded.size
        self._quota.linked(self._name, digest, uploaded.size, new=not self._has)
        return uploaded

    def leave(self) -> None:
        """Give back what was held and not received, and the bytes of an upload that has ended."""
        self._quota.usage.hold(self._name, -self._held)
        if self._finished:
            self._count(0)

    def _count(self, offset: int) -> None:
        self._quota.usage.record(self._thing, self._offset, offset)
        self._offset = offset


class _LimitedManifests:
    """See `interface.Manifests`."""

    def __init__(self, inner: Manifests, quota: QuotaChecks) -> None:
        self._inner = inner
        self._quota = quota

    async def get(
        self,
        name: RepoName,
        reference: Reference,
        *,
        accepts: Callable[[str], bool] | None = None,
        pull: bool = False,
    ) -> Manifest:
        return await self._inner.get(name, reference, accepts=accepts, pull=pull)

    async def put(
        self,
        name: RepoName,
        reference: Reference,
        media_type: str,
        data: bytes,
        *,
        tags: Sequence[Tag] = (),
        condition: IfMatch | None = None,
        classes: Collection[str] | None = None,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Pushed:
        async def put() -> Pushed:
            return await self._inner.put(
                name, reference, media_type, data, tags=tags, condition=condition, classes=classes, caller=caller
            )

        quota = self._quota
        if not quota.covers(name):
            return await put()
        await quota.usage.ready(name)
        digest = reference if isinstance(reference, Digest) else Digest.of(data)
        has = await quota.has(REVISION, name, digest)
        new_tags = [tag async for tag in self._new_tags(name, reference, tags)]
        size = 0 if has else len(data)
        quota.require(name, size, len(new_tags))
        quota.usage.hold(name, size, len(new_tags))
        try:
            pushed = await put()
            quota.linked(name, digest, size, new=not has)
            for tag in new_tags:
                quota.usage.record(Thing(TAG, name, tag), 0, 1)
        finally:
            quota.usage.hold(name, -size, -len(new_tags))
        return pushed

    async def _new_tags(self, name: RepoName, reference: Reference, tags: Sequence[Tag]) -> AsyncIterator[Tag]:
        if self._quota.counts_tags(name):
            named = tags if isinstance(reference, Digest) else (reference, *tags)
            for tag in dict.fromkeys(named):
                if not await self._quota.has_tag(name, tag):
                    yield tag

    async def delete(self, name: RepoName, reference: Reference, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        quota = self._quota
        if not quota.covers(name):
            return await self._inner.delete(name, reference, caller=caller)
        await quota.usage.ready(name)
        if not isinstance(reference, Digest):
            deleted = await self._inner.delete(name, reference, caller=caller)
            self._untagged(name, deleted.tags)
            return deleted
        size = 0
        with suppress(ManifestUnknown):  # its bytes are lost: it counts with none
            size = len((await self._inner.get(name, reference)).data)
        deleted = await self._inner.delete(name, reference, caller=caller)
        quota.unlinked(name, reference, size)
        if quota.counts_tags(name):
            # As many as the repository has are read, so the client does not wait for it.
            quota.usage.spawn(self._untag_dead(name, reference))
        return deleted

    def _untagged(self, name: RepoName, tags: Sequence[Tag]) -> None:
        if self._quota.counts_tags(name):
            for tag in tags:
                self._quota.usage.record(Thing(TAG, name, tag), 1, 0)

    async def _untag_dead(self, name: RepoName, digest: Digest) -> None:
        """Count the tags out that named a deleted manifest."""
        tags = self._quota.tags

        async def named(text: str) -> Tag | None:
            tag = as_tag(text)
            return tag if tag is not None and await tags.resolve(name, tag) == digest else None

        async for page in tags.names(name):
            self._untagged(name, [tag for tag in await map_bounded(page, named) if tag is not None])
