"""Reads what a repository has, for the decisions (`families.Facts`).

Costs a listing of all keys below the tags and of the revision links, a read of each tag's link, and of each
manifest.  Memory: about 1 kB for each manifest of the repository in work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.concurrency import map_bounded
from moorage.errors import ManifestInvalid, ManifestUnknown
from moorage.registry import layout, media
from moorage.registry.trash import TAG_KIND
from moorage.retention.families import Facts, ManifestFacts

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.registry.manifest_contents import ManifestContents
    from moorage.registry.tags import TagStore
    from moorage.registry.trash import Trash
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["FactsReader"]


class FactsReader:
    """Reads repositories of one store.  What a manifest refers to never changes, and is kept for the next look."""

    def __init__(self, driver: Driver, tags: TagStore, contents: ManifestContents, trash: Trash) -> None:
        self._driver = driver
        self._tags = tags
        self._contents = contents
        self._trash = trash

    async def read(self, name: RepoName, known: Facts | None = None) -> Facts:
        """Return the facts of now; `known` are earlier ones of the same repository.  Raises StorageUnavailable."""
        # Tags before manifests: one that is pushed in between has its manifest, and a tag without one is dead.
        states = await self._tags.examine(name)
        modified: dict[Digest, datetime] = {}
        async for page in self._driver.scan(layout.revisions(name)):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is not None and parsed.kind == "revision" and parsed.digest is not None and stat.size:
                    modified[parsed.digest] = stat.modified

        async def manifest(digest: Digest) -> ManifestFacts:
            before = None if known is None else known.manifests.get(digest)
            if before is not None and before.readable:
                return ManifestFacts(modified[digest], before.children, before.subject, before.blobs, before.size)
            return await self._manifest(digest, modified[digest])

        found = await map_bounded(modified, manifest)
        recent: dict[Digest, datetime] = {}
        async for entries in self._trash.entries(name):
            for entry in entries:
                if entry.kind == TAG_KIND:
                    recent[entry.digest] = max(entry.at, recent.get(entry.digest, entry.at))
        return Facts(name, {state.tag: state for state in states}, dict(zip(modified, found, strict=True)), recent)

    async def _manifest(self, digest: Digest, modified: datetime) -> ManifestFacts:
        try:
            manifest = await self._contents.load(digest)
            parsed = media.parse(manifest.data)
        except (ManifestUnknown, ManifestInvalid):
            return ManifestFacts(modified, readable=False)
        return ManifestFacts(
            modified,
            tuple(child.digest for child in parsed.children),
            parsed.subject,
            tuple((blob.digest, blob.size or 0) for blob in parsed.blobs if not blob.external),
            len(manifest.data),
        )
