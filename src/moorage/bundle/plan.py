"""Plan of an export: a target of copies that stores nothing and records everything that a bundle is to contain.

The copy of an image asks its target for what is missing and sends the rest (`replication/images.py`); here it
sends manifests only, since the bytes of blobs are not read.  Platforms, referrers and signatures are therefore
those of any other copy, and the sizes of all blobs are known before the first is read.

Above: `export.py`.  Below: `replication/endpoints.py`, `contents.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from moorage.bundle.contents import BundledImage, ContentItem
from moorage.registry import media
from moorage.registry.interface import Manifest
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from moorage.types import Reference, Referrer, RepoName, Tag

__all__ = ["ExportPlan"]

_KEPT_BYTES: Final = 64 << 20
"""Manifests that are kept until they are written; further ones are read again."""


@dataclass(slots=True)
class _Planned:
    size: int
    repositories: dict[str, None] = field(default_factory=dict)
    media_type: str = ""
    artifact_type: str | None = None

    def item(self, digest: Digest) -> ContentItem:
        return ContentItem(digest, self.size, tuple(sorted(self.repositories)), bool(self.media_type))


class ExportPlan:
    """See `replication.endpoints.ImageTarget`.  Blobs in `left_out` are recorded in `omitted`."""

    def __init__(self, title: str, left_out: Collection[Digest]) -> None:
        self.title: Final = title
        self._left_out = left_out
        self._manifests: dict[Digest, _Planned] = {}
        self._blobs: dict[Digest, _Planned] = {}
        self._omitted: dict[Digest, _Planned] = {}
        self._tags: dict[tuple[str, str], Digest] = {}
        self._referrers: dict[Digest, None] = {}
        self._untagged: dict[tuple[str, Digest], None] = {}
        self._data: dict[Digest, bytes] = {}
        self._kept_bytes = 0
        self._looked_up: set[Digest] = set()

    def add_untagged(self, name: RepoName, digest: Digest) -> None:
        """Record an image that has no tag in the bundle."""
        self._untagged[name, digest] = None

    def manifest(self, digest: Digest) -> bytes | None:
        """Return the bytes of a planned manifest, None if they were not kept."""
        return self._data.get(digest)

    def images(self) -> tuple[BundledImage, ...]:
        named = [
            *((name, tag, digest) for (name, tag), digest in self._tags.items()),
            *((name, "", digest) for name, digest in self._untagged),
        ]
        return tuple(
            BundledImage(name, tag, digest, self._manifests[digest].media_type, self._manifests[digest].size)
            for name, tag, digest in sorted(named)
        )

    def content(self) -> tuple[ContentItem, ...]:
        """Return manifests, then blobs, each by digest: in the same order, in each run."""
        return tuple(
            planned.item(digest)
            for kind in (self._manifests, self._blobs)
            for digest, planned in sorted(kind.items(), key=itemgetter(0))
        )

    def omitted(self, places: Mapping[Digest, tuple[str, ...]]) -> tuple[ContentItem, ...]:
        """Return the blobs that are left out, with the repositories that have them on the other side."""
        return tuple(
            ContentItem(digest, self._omitted[digest].size, places[digest]) for digest in sorted(self._omitted)
        )

    def referrers(self) -> tuple[dict[str, Any], ...]:
        """Return the descriptors of the manifests that refer to images."""
        found = []
        for digest in sorted(self._referrers):
            planned = self._manifests[digest]
            entry = {"mediaType": planned.media_type, "digest": str(digest), "size": planned.size}
            found.append({**entry, "artifactType": planned.artifact_type} if planned.artifact_type else entry)
        return tuple(found)

    # --- as the target of a copy -------------------------------------------------------------------------------

    async def resolve(self, name: RepoName, tag: Tag) -> Digest | None:
        return self._tags.get((name, tag))

    async def find_manifest(self, name: RepoName, digest: Digest) -> Manifest | None:
        self._looked_up.add(digest)
        planned, data = self._manifests.get(digest), self._data.get(digest)
        if planned is None or data is None or name not in planned.repositories:
            return None
        return Manifest(digest, planned.media_type, data)

    async def has_blob(self, name: RepoName, digest: Digest) -> bool:
        planned = self._blobs.get(digest) or self._omitted.get(digest)
        if planned is None:
            return False
        planned.repositories[name] = None
        return True

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        del name, digest, source
        return False

    async def put_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Record a blob without reading `chunks`."""
        del chunks
        kind = self._omitted if digest in self._left_out else self._blobs
        kind.setdefault(digest, _Planned(size)).repositories[name] = None

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> None:
        algorithm = reference.algorithm if isinstance(reference, Digest) else None
        digest = self._digest(data, algorithm)
        planned = self._manifests.get(digest)
        if planned is None:
            artifact_type = media.stored_description(data).artifact_type
            planned = self._manifests[digest] = _Planned(
                len(data), media_type=media_type, artifact_type=artifact_type
            )
            if self._kept_bytes + len(data) <= _KEPT_BYTES:
                self._kept_bytes += len(data)
                self._data[digest] = data
        planned.repositories[name] = None
        if not isinstance(reference, Digest):
            self._tags[name, reference] = digest

    def _digest(self, data: bytes, algorithm: str | None) -> Digest:
        """Return the digest by which a copy has looked for the manifest: a tag may point to one of sha512."""
        if algorithm is None:
            other = Digest.of(data, "sha512")
            return other if other in self._looked_up else Digest.of(data)
        return Digest.of(data, algorithm)

    async def list_referrers(self, name: RepoName, subject: Digest) -> frozenset[Digest]:
        del name, subject
        return frozenset()

    async def add_referrers(self, name: RepoName, subject: Digest, added: Sequence[Referrer]) -> None:
        """Record the manifests as entries of `index.json`, where readers of layouts find referrers."""
        del name, subject
        self._referrers |= dict.fromkeys(referrer.digest for referrer in added)
