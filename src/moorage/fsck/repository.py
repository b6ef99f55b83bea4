"""Checks one repository: its links, its manifests and their content, its referrers.  Tags: `tags.py`.

    layer links ──► revision links ──► manifests and their content ──► referrers ──► tags

Memory: the digests of one repository's links, about 0.4 KiB each; manifests of up to 4 MiB, one for each visit of
the walk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from moorage.errors import ManifestInvalid
from moorage.fsck.repairs import (
    drop_referrer,
    exists,
    overwrite,
    referrer_content,
    repair_torn,
    write_absent,
    write_referrer,
)
from moorage.registry import layout, media
from moorage.registry.links import has_link, resolve
from moorage.registry.referrer_links import encode
from moorage.storage.driver import ABSENT, KeyMissing, ObjectTooLarge, StorageUnavailable
from moorage.types import Digest

if TYPE_CHECKING:
    from moorage.fsck.context import CheckContext
    from moorage.registry.media import Child, Layer, Parsed
    from moorage.registry.referrer_links import ReferrerLink
    from moorage.registry.walk import RepositoryListing
    from moorage.storage.driver import Key
    from moorage.types import RepoName

__all__ = ["RepositoryCheck"]


@dataclass(slots=True)
class RepositoryCheck:
    """State of the check of one repository; `layers` maps the digest of a link's path to the one it holds."""

    context: CheckContext
    name: RepoName
    layers: dict[Digest, Digest] = field(default_factory=dict)
    revisions: set[Digest] = field(default_factory=set)
    subjects: dict[Digest, Digest] = field(default_factory=dict)

    async def run(self, listing: RepositoryListing) -> None:
        """Check everything but the tags."""
        await listing.each_layer(self._layer)
        await listing.each_manifest(self._revision)
        await listing.each(sorted(self.revisions), self.manifest)
        await listing.each_referrer(self._referrer)

    async def _blob(self, digest: Digest) -> int | None:
        """Return the size in bytes, None if the blob is missing now."""
        return await self.context.inventory.size(digest)

    async def _blob_exists(self, digest: Digest) -> bool:
        return await self.context.inventory.size_now(digest) is not None

    async def _layer(self, digest: Digest) -> None:
        key, driver = layout.layer_link(self.name, digest), self.context.driver
        stored, when = await resolve(driver, key)
        if stored is None:
            if when is not ABSENT:
                fix = partial(repair_torn, driver, key, digest, blob_exists=partial(self._blob_exists, digest))
                if await self.context.report("layer-torn", key, "the link holds no digest", fix):
                    await self._remember(key, digest)
            return
        if stored != digest and stored.algorithm == digest.algorithm:
            again = partial(overwrite, driver, key, digest, when) if await self._blob_exists(digest) else None
            if await self.context.report("layer-astray", key, f"the link names {stored}", again):
                stored = digest
        self.layers[digest] = stored
        if await self._blob(stored) is None and await has_link(driver, key):
            await self.context.report("layer-missing", key, f"there are no bytes of {stored}")

    async def _remember(self, key: Key, digest: Digest) -> None:
        if await has_link(self.context.driver, key):
            self.layers[digest] = digest

    async def _revision(self, digest: Digest) -> None:
        key, driver = layout.revision_link(self.name, digest), self.context.driver
        found, when = await resolve(driver, key)
        if found is None and when is ABSENT:
            return  # a directory that a deletion left
        if found is None:
            fix = partial(repair_torn, driver, key, digest, blob_exists=partial(self._is_intact, digest))
            await self.context.report("revision-torn", key, "the link holds no digest", fix)
        elif found != digest:
            again = partial(overwrite, driver, key, digest, when) if await self._is_intact(digest) else None
            await self.context.report("revision-astray", key, f"the link names {found}", again)
        if await has_link(driver, key):
            self.revisions.add(digest)

    async def _is_intact(self, digest: Digest) -> bool:
        data = await self._read(digest)
        return data is not None and Digest.of(data, digest.algorithm) == digest

    async def _read(self, digest: Digest) -> bytes | None:
        """Return the bytes; None if they are missing, too large for a manifest, or on a bad sector."""
        try:
            return await self.context.blobs.content(digest)
        except (KeyMissing, ObjectTooLarge):
            return None
        except StorageUnavailable:
            await self.context.driver.probe()  # raises if the whole store cannot be read
            return None

    async def manifest(self, digest: Digest) -> None:
        """Check a manifest that has a revision link, and its content."""
        link = layout.revision_link(self.name, digest)
        await self._blob(digest)
        data = await self._read(digest)
        if data is None or Digest.of(data, digest.algorithm) != digest:
            if not await has_link(self.context.driver, link):
                return  # deleted meanwhile
            if await self._blob_exists(digest):
                await self.context.report(
                    "manifest-corrupt", self.context.blobs.key(digest), f"not the manifest that {self.name} links"
                )
            else:
                await self.context.report("manifest-missing", link, f"there are no bytes of {digest}")
            return
        try:
            parsed = media.parse(data)
        except ManifestInvalid as error:
            await self.context.report("manifest-unreadable", link, str(error.detail or error))
            return
        if parsed.unsupported:
            names = ", ".join(parsed.unsupported)
            await self.context.report("content-unsupported", link, f"digests that are not supported: {names}")
        await self._content(digest, parsed)
        if (referrer := encode(digest, len(data), parsed)) is not None:
            self.subjects[digest] = referrer.subject
            await self._referrer_link(digest, referrer)

    async def complete(self, digest: Digest) -> tuple[int, Parsed] | None:
        """Return size and content of a manifest without a link; None unless all of its content exists."""
        data = await self._read(digest)
        if data is None or Digest.of(data, digest.algorithm) != digest:
            return None
        try:
            parsed = media.parse(data)
        except ManifestInvalid:
            return None
        if parsed.unsupported:
            return None
        for layer in parsed.blobs:
            if not layer.external:
                size = await self._blob(self.layers.get(layer.digest, layer.digest))
                if size is None or layer.size not in {None, size}:
                    return None
        return len(data), parsed

    async def _content(self, digest: Digest, parsed: Parsed) -> None:
        for layer in dict.fromkeys(parsed.blobs):
            if not layer.external:
                await self._layer_of(digest, layer)
        for child in dict.fromkeys(parsed.children):
            await self._child(digest, child)

    async def _layer_of(self, manifest: Digest, layer: Layer) -> None:
        """Check a config or layer: it is linked in the repository, exists, and has the size in the manifest."""
        link = layout.layer_link(self.name, layer.digest)
        stored = self.layers.get(layer.digest)
        if stored is None:
            stored, when = await resolve(self.context.driver, link)
            if stored is None and when is ABSENT and not await self._unlinked(manifest, layer):
                return
            stored = stored or layer.digest
        size = await self._blob(stored)
        if size is None:
            if await has_link(self.context.driver, layout.revision_link(self.name, manifest)):
                revision = layout.revision_link(self.name, manifest)
                await self.context.report("content-missing", revision, f"there are no bytes of {layer.digest}")
        else:
            await self._size(manifest, layer.digest, self.context.blobs.key(stored), layer.size, size)

    async def _unlinked(self, manifest: Digest, layer: Layer) -> bool:
        """Check content that the repository does not link; return whether to check it further."""
        revision = layout.revision_link(self.name, manifest)
        if not await has_link(self.context.driver, revision):
            return False  # deleted meanwhile
        if self.context.is_sparse(self.name):
            # Also if the store has the bytes: they may be of another repository, with readers of its own.
            await self.context.report("content-absent", revision, f"{layer.digest} is not in this repository")
            return False
        size = await self.context.inventory.size_now(layer.digest)
        if size is None:
            return True
        link = layout.layer_link(self.name, layer.digest)
        fix = None
        if layer.size in {None, size}:
            fix = partial(write_absent, self.context.driver, link, layer.digest)
        if await self.context.report("content-unlinked", link, f"{self.name}@{manifest} names it", fix):
            self.layers[layer.digest] = layer.digest
        return True

    async def _size(self, manifest: Digest, named: Digest, key: Key, expected: int | None, size: int) -> None:
        if expected is not None and expected != size:
            text = f"{self.name}@{manifest} names {named} with {expected} bytes; {size} are stored"
            await self.context.report("blob-size", key, text)

    async def _child(self, manifest: Digest, child: Child) -> None:
        revision = layout.revision_link(self.name, child.digest)
        driver = self.context.driver
        if child.digest in self.revisions or await has_link(driver, revision):
            stored = child.digest
        else:
            found, _ = await resolve(driver, layout.layer_link(self.name, child.digest))
            if found is None:
                key = layout.revision_link(self.name, manifest)
                await self.context.report("child-absent", key, f"{child.digest} is not in this repository")
                return
            stored = found
        size = await self._blob(stored)
        if size is not None:  # else reported for its own link
            await self._size(manifest, child.digest, self.context.blobs.key(stored), child.size, size)

    async def _referrer_link(self, digest: Digest, link: ReferrerLink) -> None:
        """Check the referrer link of a manifest with a subject."""
        key, driver = layout.referrer_link(self.name, link.subject, digest), self.context.driver
        found, when = await referrer_content(driver, key)
        fix = partial(write_referrer, driver, key, link, when)
        if found is None and when is ABSENT:
            if await has_link(driver, layout.revision_link(self.name, digest)):
                await self.context.report("referrer-missing", key, f"{digest} has the subject {link.subject}", fix)
        elif found == str(digest).encode():
            await self.context.report("referrer-bare", key, "the link has no descriptor", fix)
        elif found != link.content:
            await self.context.report("referrer-torn", key, "it does not hold the manifest's descriptor", fix)

    async def _referrer(self, subject: Digest, digest: Digest) -> None:
        """Check that a referrer link belongs to a manifest; `_referrer_link` has compared its content."""
        key, driver = layout.referrer_link(self.name, subject, digest), self.context.driver
        if not await exists(driver, key):
            return  # a directory that a deletion left
        alive = await has_link(driver, layout.revision_link(self.name, digest))
        valid = self.subjects.get(digest, subject) == subject
        if not alive or not valid:
            fix = partial(drop_referrer, driver, self.name, key, digest, valid=valid)
            why = "its manifest has another subject" if alive else "its manifest is not in this repository"
            await self.context.report("referrer-stale", key, why, fix)
