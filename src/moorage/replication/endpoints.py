"""Source and target of a copy: the protocols that a registry, a store and a bundle implement.

Both name repositories and digests as `types.py` does.  A digest never changes on its way: a target stores the
bytes of the source.

    missing in a source        ManifestUnknown, BlobUnknown, NameUnknown (`errors.py`)
    not reached, refused       UpstreamError (`upstream/errors.py`) of a registry, RegistryError of a store
    refused by a target        RegistryError with the reason, or UpstreamError

Above: `images.py`, `bundle/`, `cli/copy.py`, `wiring/sync.py`.  Below: `registry/interface.py`, `upstream/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from moorage.registry.interface import Manifest
    from moorage.types import Digest, Reference, Referrer, RepoName, Tag

__all__ = ["ImageSource", "ImageTarget"]


class ImageSource(Protocol):
    """Reads images.  Methods are safe to call concurrently."""

    @property
    def title(self) -> str:
        """Return the place in messages: a host, a file, `the store`."""

    async def resolve(self, name: RepoName, tag: Tag) -> Digest:
        """Return the digest of a tag, without its manifest.  Raises ManifestUnknown."""

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest:
        """Return a manifest, whose bytes have its digest.  Raises ManifestUnknown."""

    async def stat_blob(self, name: RepoName, digest: Digest) -> int:
        """Return the size in bytes.  Raises BlobUnknown."""

    def open_blob(
        self, name: RepoName, digest: Digest, *, start: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream the bytes from `start` on.  Raises BlobUnknown.  The bytes are not compared with the digest."""

    def list_tags(self, name: RepoName) -> AsyncIterator[Sequence[Tag]]:
        """Yield the tags in pages.  Raises NameUnknown."""

    def list_repositories(self) -> AsyncIterator[Sequence[RepoName]]:
        """Yield the repositories in pages."""

    async def list_referrers(self, name: RepoName, subject: Digest) -> Sequence[Referrer]:
        """Return the manifests whose subject is `subject`; none if it is unknown."""


class ImageTarget(Protocol):
    """Writes images.  Methods are safe to call concurrently."""

    @property
    def title(self) -> str:
        """Return the place in messages: a host, a file, `the store`."""

    async def resolve(self, name: RepoName, tag: Tag) -> Digest | None:
        """Return the digest of a tag, None if there is none."""

    async def find_manifest(self, name: RepoName, digest: Digest) -> Manifest | None:
        """Return a manifest of the repository, None if it is not there."""

    async def has_blob(self, name: RepoName, digest: Digest) -> bool:
        """Return whether the repository has the blob."""

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        """Link a blob of another repository of the target; False: not possible, it must be sent."""

    async def put_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Store a blob whose bytes are proven to have the digest.  Raises DigestInvalid; nothing is stored then.

        An error that `chunks` raises is raised, and nothing is stored.
        """

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> None:
        """Store a manifest whose content the repository has; a reference that is a tag is set.

        Raises ManifestBlobUnknown if content is absent, and other refusals of the target.
        """

    async def list_referrers(self, name: RepoName, subject: Digest) -> frozenset[Digest]:
        """Return the digests of the manifests that the target lists as referrers of `subject`."""

    async def add_referrers(self, name: RepoName, subject: Digest, added: Sequence[Referrer]) -> None:
        """List stored manifests as referrers of `subject` where the target does not do so itself."""
