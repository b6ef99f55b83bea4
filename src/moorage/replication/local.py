"""Source and target over a registry of this process: the store of the configuration, without HTTP.

Writes go through `registry/interface.py`, so that quotas, immutable tags and rules for manifests apply
as to a push.

Above: `cli/copy.py`, `wiring/sync.py`, `bundle/`.  Below: `registry/interface.py`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING, Final

from moorage.errors import BlobUnknown, ManifestUnknown, RegistryError
from moorage.registry.interface import UNKNOWN_CALLER, BlobRedirect, GrowingFile
from moorage.types import Digest, RepoName, parse_repo_name, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.registry.interface import Caller, Manifest, Registry
    from moorage.types import Reference, Referrer, Tag

__all__ = ["LocalSource", "LocalTarget"]

_PAGE: Final = 1000
_PIECE_BYTES: Final = 1 << 20


class LocalSource:
    """See `endpoints.ImageSource`."""

    def __init__(self, registry: Registry, *, title: str = "the store") -> None:
        self._registry = registry
        self.title: Final = title

    async def resolve(self, name: RepoName, tag: Tag) -> Digest:
        return (await self._registry.manifests.get(name, tag)).digest

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest:
        return await self._registry.manifests.get(name, reference)

    async def stat_blob(self, name: RepoName, digest: Digest) -> int:
        return (await self._registry.blobs.stat(name, digest)).size

    @asynccontextmanager
    async def open_blob(
        self, name: RepoName, digest: Digest, *, start: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        found = await self._registry.blobs.fetch(
            name, digest, select=lambda size: range(start, size) if 0 < start < size else None, redirect=False
        )
        assert not isinstance(found, BlobRedirect), "no redirect was requested"
        content = found.content
        if isinstance(content, bytes):
            yield _pieces(content, 0 if found.span is None else found.span.start)
            return
        assert not isinstance(content, FileIO | GrowingFile), "no open file was requested"
        async with content as pieces:
            yield pieces

    async def list_tags(self, name: RepoName) -> AsyncIterator[Sequence[Tag]]:
        last = ""
        while True:
            page = await self._registry.tags.list(name, last=last, limit=_PAGE)
            yield [parse_tag(tag) for tag in page.names]
            if not page.more:
                return
            last = page.names[-1]

    async def list_repositories(self) -> AsyncIterator[Sequence[RepoName]]:
        last = ""
        while True:
            page = await self._registry.repositories.list(last=last, limit=_PAGE)
            yield [parse_repo_name(name) for name in page.names]
            if not page.more:
                return
            last = page.names[-1]

    async def list_referrers(self, name: RepoName, subject: Digest) -> Sequence[Referrer]:
        return await _referrers(self._registry, name, subject)


class LocalTarget:
    """See `endpoints.ImageTarget`.  `caller` is recorded with what is stored."""

    def __init__(self, registry: Registry, *, title: str = "the store", caller: Caller = UNKNOWN_CALLER) -> None:
        self._registry = registry
        self._caller = caller
        self.title: Final = title

    async def resolve(self, name: RepoName, tag: Tag) -> Digest | None:
        try:
            return (await self._registry.manifests.get(name, tag)).digest
        except ManifestUnknown:
            return None

    async def find_manifest(self, name: RepoName, digest: Digest) -> Manifest | None:
        try:
            return await self._registry.manifests.get(name, digest)
        except ManifestUnknown:
            return None

    async def has_blob(self, name: RepoName, digest: Digest) -> bool:
        try:
            await self._registry.blobs.stat(name, digest)
        except BlobUnknown:
            return False
        return True

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        try:
            await self._registry.blobs.mount(name, digest, source, caller=self._caller)
        except BlobUnknown:
            return False
        return True

    async def put_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        uploads = self._registry.uploads
        begun = await uploads.start(name, algorithm=digest.algorithm, digest=digest)
        try:
            async with uploads.extend(
                name, begun.uuid, begun.state, algorithm=digest.algorithm, length=size, digest=digest
            ) as part:
                async for chunk in chunks:
                    await part.write(chunk)
                await part.finish(digest, caller=self._caller)
        except BaseException:
            # The upload may be gone; a purge removes what is left of one.
            with suppress(RegistryError):
                status = await uploads.status(name, begun.uuid)
                await uploads.cancel(name, begun.uuid, status.state)
            raise

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> None:
        await self._registry.manifests.put(name, reference, media_type, data, caller=self._caller)

    async def list_referrers(self, name: RepoName, subject: Digest) -> frozenset[Digest]:
        return frozenset(referrer.digest for referrer in await _referrers(self._registry, name, subject))

    async def add_referrers(self, name: RepoName, subject: Digest, added: Sequence[Referrer]) -> None:
        """Do nothing: the registry lists a manifest with a subject when it is stored."""


async def _referrers(registry: Registry, name: RepoName, subject: Digest) -> Sequence[Referrer]:
    found: list[Referrer] = []
    after = ""
    while True:
        page = await registry.referrers.list(name, subject, after=after)
        found += page.entries
        if page.next is None:
            return found
        after = page.next


async def _pieces(data: bytes, start: int) -> AsyncIterator[bytes]:
    for at in range(start, len(data), _PIECE_BYTES):
        yield data[at : at + _PIECE_BYTES]
