"""Source and target over another registry, reached by HTTP.

Above: `cli/copy.py`, `wiring/sync.py`, `bundle/`.  Below: `upstream/client.py`.
Source: distribution-spec 1.1, "Referrers Tag Schema" (a target without the API of referrers).
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from moorage.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
)
from moorage.registry.media import OCI_INDEX
from moorage.registry.referrers import fallback_tag
from moorage.replication.blobs import verified
from moorage.replication.errors import TargetRefused
from moorage.types import Digest
from moorage.upstream.errors import UpstreamDenied, UpstreamMissing, UpstreamRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from moorage.registry.interface import Manifest
    from moorage.types import Reference, Referrer, RepoName, Tag
    from moorage.upstream.client import RegistryClient

__all__ = ["RemoteSource", "RemoteTarget"]

_ABSENT_CONTENT: Final = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
"""Codes of registries that refuse a manifest because of absent content."""


@contextmanager
def _missing_as(error: RegistryError) -> Iterator[None]:
    try:
        yield
    except UpstreamMissing:
        raise error from None


class RemoteSource:
    """See `endpoints.ImageSource`.  The owner of `client` closes it."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self.title: Final = client.host

    async def resolve(self, name: RepoName, tag: Tag) -> Digest:
        with _missing_as(ManifestUnknown(tag)):
            return (await self._client.stat_manifest(name, tag)).digest

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest:
        with _missing_as(ManifestUnknown(reference)):
            return await self._client.get_manifest(name, reference)

    async def stat_blob(self, name: RepoName, digest: Digest) -> int:
        with _missing_as(BlobUnknown(digest)):
            return await self._client.stat_blob(name, digest)

    @asynccontextmanager
    async def open_blob(
        self, name: RepoName, digest: Digest, *, start: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        with _missing_as(BlobUnknown(digest)):
            async with self._client.open_blob(name, digest, start=start) as blob:
                yield _from(aiter(blob), start - blob.start)

    async def list_tags(self, name: RepoName) -> AsyncIterator[Sequence[Tag]]:
        with _missing_as(NameUnknown(name)):
            async for page in self._client.list_tags(name):
                yield page

    async def list_repositories(self) -> AsyncIterator[Sequence[RepoName]]:
        async for page in self._client.list_repositories():
            yield page

    async def list_referrers(self, name: RepoName, subject: Digest) -> Sequence[Referrer]:
        with _missing_as(NameUnknown(name)):
            return await self._client.list_referrers(name, subject)


async def _from(chunks: AsyncIterator[bytes], start: int) -> AsyncIterator[bytes]:
    """Leave out the first `start` bytes: a registry without ranges sends the whole blob again."""
    async for chunk in chunks:
        if start >= len(chunk):
            start -= len(chunk)
            continue
        yield chunk[start:] if start else chunk
        start = 0


class RemoteTarget:
    """See `endpoints.ImageTarget`.  The owner of `client` closes it.

    Hosted registries deny reading a repository that does not exist yet to an account that may create it.  With
    `denied_is_absent` such an answer counts as absent, and the first write decides.
    """

    def __init__(self, client: RegistryClient, *, denied_is_absent: bool = True) -> None:
        self._client = client
        self._absent = (UpstreamMissing, UpstreamDenied) if denied_is_absent else (UpstreamMissing,)
        self.title: Final = client.host

    async def resolve(self, name: RepoName, tag: Tag) -> Digest | None:
        try:
            return (await self._client.stat_manifest(name, tag)).digest
        except self._absent:
            return None

    async def find_manifest(self, name: RepoName, digest: Digest) -> Manifest | None:
        try:
            return await self._client.get_manifest(name, digest)
        except self._absent:
            return None

    async def has_blob(self, name: RepoName, digest: Digest) -> bool:
        try:
            await self._client.stat_blob(name, digest)
        except self._absent:
            return False
        return True

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        return await self._client.mount_blob(name, digest, source)

    async def put_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        await self._client.upload_blob(name, digest, size, verified(chunks, digest, size))

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> None:
        try:
            stored = await self._client.put_manifest(name, reference, media_type, data)
        except (UpstreamRefused, UpstreamMissing) as error:
            if _ABSENT_CONTENT & set(error.codes):
                raise ManifestBlobUnknown([error.words or str(error)]) from error
            raise
        if Digest.of(data, stored.algorithm) != stored:
            raise TargetRefused(f"{self.title} stored {name}@{Digest.of(data)} as {stored}: it changes manifests")

    async def list_referrers(self, name: RepoName, subject: Digest) -> frozenset[Digest]:
        try:
            return frozenset(entry.digest for entry in await self._client.list_referrers(name, subject))
        except self._absent:
            return frozenset()

    async def add_referrers(self, name: RepoName, subject: Digest, added: Sequence[Referrer]) -> None:
        """Write the list under the tag of the subject if the registry has no API of referrers."""
        try:
            listed = await self._client.list_referrers(name, subject)
        except self._absent:
            listed = ()
        known = {entry.digest for entry in listed}
        missing = [entry for entry in added if entry.digest not in known]
        if not missing:
            return
        descriptors = [json.loads(entry.descriptor) for entry in (*listed, *missing)]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
        data = json.dumps(document, separators=(",", ":")).encode()
        await self._client.put_manifest(name, fallback_tag(subject), OCI_INDEX, data)
