"""Content of one image on its way: its manifests with their blobs, then the manifests that refer to it.

Every manifest of the image is visited once.  What the target has is read there, so that an image that is up to
date costs the source one request for its tag and one for its referrers.

Above: `images.py`.  Below: `blobs.py`, `endpoints.py`, `platforms.py`, `registry/media.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.concurrency import for_each, map_bounded, one_page
from moorage.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameUnknown,
    RegistryError,
)
from moorage.registry import media
from moorage.replication.errors import (
    ImageIncomplete,
    ImageMissing,
    PlatformMissing,
    TargetRefused,
    UnsupportedImage,
)
from moorage.replication.failures import is_temporary
from moorage.replication.platforms import platform_of_config, read_entries, select_entries
from moorage.replication.progress import CopyCounts
from moorage.types import Digest, parse_tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.registry.interface import Manifest
    from moorage.registry.media import Layer, Parsed
    from moorage.replication.blobs import BlobTransfers
    from moorage.replication.endpoints import ImageSource, ImageTarget
    from moorage.replication.platforms import IndexEntry
    from moorage.replication.requests import CopyRequest, ReplicationOptions
    from moorage.types import Reference, Referrer, Tag

__all__ = ["CopiedManifest", "ImageTree", "ReferrersOf"]

_AT_ONCE: Final = 4
_DEPTH: Final = 8
"""Indexes within indexes, and referrers of referrers."""
_CONFIG_LIMIT_BYTES: Final = 4 << 20
_COSIGN: Final = ("sig", "att", "sbom")
"""Ends of the tags under which cosign stores signatures, attestations and SBOMs of a digest."""
_SHOWN: Final = 6


@dataclass(slots=True)
class CopiedManifest:
    """A manifest whose content is in the target; `stored`: so is the manifest."""

    manifest: Manifest
    stored: bool


@dataclass(frozen=True, slots=True)
class ReferrersOf:
    """The referrers of a manifest, and tags of cosign for it."""

    subject: Digest
    referrers: Sequence[Referrer]
    tags: Sequence[tuple[Tag, Digest]]


class ImageTree:
    """One attempt to copy one image; `counts` grows.  `recheck`: blobs of stored manifests are looked up, too."""

    def __init__(
        self,
        source: ImageSource,
        target: ImageTarget,
        blobs: BlobTransfers,
        request: CopyRequest,
        options: ReplicationOptions,
        *,
        recheck: bool,
    ) -> None:
        self._source = source
        self._target = target
        self._blobs = blobs
        self._request = request
        self._options = options
        self._recheck = recheck
        self._names = (request.source_name, request.target_name)
        self._copied: dict[Digest, CopiedManifest] = {}
        self._left_out = False
        self.counts = CopyCounts()

    async def copy_content(self, digest: Digest) -> CopiedManifest:
        """Copy all that a manifest names, not yet the manifest itself, and return it.

        Raises ImageMissing, ImageIncomplete, PlatformMissing, UnsupportedImage, SourceDamaged, TargetRefused.
        """
        stored = await self._target.find_manifest(self._request.target_name, digest)
        manifest = stored or await self._read(digest)
        parsed = self._parse(manifest)
        if parsed.media_type not in media.INDEXES and self._request.platforms:
            await self._check_platform(manifest, parsed)
        return await self._copy_named(manifest, parsed, stored=stored is not None, depth=0)

    async def _read(self, digest: Digest) -> Manifest:
        try:
            return await self._source.get_manifest(self._request.source_name, digest)
        except (ManifestUnknown, NameUnknown):
            where = f"{self._request.source_name}@{digest}"
            raise ImageMissing(f"{self._source.title} has no {where}") from None

    def _parse(self, manifest: Manifest) -> Parsed:
        where = f"{self._source.title}: {self._request.source_name}@{manifest.digest}"
        try:
            parsed = media.parse(manifest.data)
        except ManifestInvalid as error:
            raise UnsupportedImage(f"{where} cannot be copied: {error.subject}") from None
        if parsed.unsupported:
            raise UnsupportedImage(
                f"{where} names digests that are not supported: {', '.join(parsed.unsupported)}"
            )
        return parsed

    async def _check_platform(self, manifest: Manifest, parsed: Parsed) -> None:
        """Check an image without an index by its config; one without a platform is for all of them."""
        if parsed.config_type is None or media.class_of(parsed.config_type) != "image":
            return
        config = parsed.blobs[0]
        if config.size is not None and config.size > _CONFIG_LIMIT_BYTES:
            raise UnsupportedImage(
                f"the config of {manifest.digest} has {config.size} bytes; expected at most 4 MiB"
            )
        data = bytearray()
        try:
            async with self._source.open_blob(self._request.source_name, config.digest) as chunks:
                async for chunk in chunks:
                    data += chunk
                    if len(data) > _CONFIG_LIMIT_BYTES:
                        break
        except BlobUnknown:
            raise self._incomplete(manifest.digest, config.digest) from None
        found = platform_of_config(bytes(data))
        if found is not None and not any(one.selects(found) for one in self._request.platforms):
            self._refuse_platforms([str(found)])

    def _refuse_platforms(self, found: Sequence[str]) -> None:
        requested = " or ".join(map(str, self._request.platforms))
        shown = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "") or "no platform at all"
        raise PlatformMissing(
            f"{self._source.title}: {self._request.source_text} has no image for {requested}; it has {shown}"
        )

    def _incomplete(self, parent: Digest, missing: Digest) -> ImageIncomplete:
        return ImageIncomplete(
            f"{self._source.title}: {self._request.source_name}@{parent} names {missing}, which is missing there"
        )

    async def _copy_named(self, manifest: Manifest, parsed: Parsed, *, stored: bool, depth: int) -> CopiedManifest:
        """Copy the children or blobs of a manifest."""
        copied = CopiedManifest(manifest, stored)
        self._copied[manifest.digest] = copied
        if parsed.media_type in media.INDEXES:
            await self._copy_children(manifest, depth)
        elif not stored or self._recheck:
            layers = one_page(dict.fromkeys(parsed.blobs))
            await for_each(layers, self._copy_layer, limit=self._options.blobs_at_once)
        return copied

    async def _copy_layer(self, layer: Layer) -> None:
        if layer.external:
            try:
                await self._source.stat_blob(self._request.source_name, layer.digest)
            except (BlobUnknown, NameUnknown):
                return  # clients fetch it from its URLs
        await self._copy_blob(layer.digest, layer.size)

    async def _copy_blob(self, digest: Digest, size: int | None = None) -> None:
        await self._blobs.ensure(self._names, digest, size, self.counts, self._request.mount_from)

    async def _copy_children(self, index: Manifest, depth: int) -> None:
        entries = read_entries(index.data)
        selected = select_entries(entries, self._request.platforms)
        if entries and not selected and depth == 0:
            self._refuse_platforms([str(entry.platform) for entry in entries if not entry.attests])
        self._left_out |= len(selected) < len(entries)
        if depth >= _DEPTH:
            raise UnsupportedImage(f"{index.digest}: indexes are nested more than {_DEPTH} levels deep")

        async def copy_child(entry: IndexEntry) -> None:
            if entry.digest in self._copied:
                return
            if entry.media_type and entry.media_type not in media.MEDIA_TYPES:  # BuildKit's cache
                await self._copy_blob(entry.digest)
                return
            await self._copy_child(index, entry.digest, depth + 1)

        unique = {entry.digest: entry for entry in selected}
        await for_each(one_page(unique.values()), copy_child, limit=_AT_ONCE)

    async def _copy_child(self, index: Manifest, digest: Digest, depth: int) -> None:
        stored = await self._target.find_manifest(self._request.target_name, digest)
        if stored is None:
            try:
                manifest = await self._source.get_manifest(self._request.source_name, digest)
            except (ManifestUnknown, NameUnknown):
                raise self._incomplete(index.digest, digest) from None
        else:
            manifest = stored
        await self.put(
            await self._copy_named(manifest, self._parse(manifest), stored=stored is not None, depth=depth)
        )

    async def put(self, copied: CopiedManifest, tag: Tag | None = None) -> None:
        """Store a manifest whose content is in the target, by its tag if there is one."""
        if copied.stored and tag is None:
            return
        if not copied.stored:
            self.counts.manifests += 1
        if not self._options.dry_run:
            await self._put(copied.manifest, copied.manifest.digest if tag is None else tag)
        copied.stored = True

    async def _put(self, manifest: Manifest, reference: Reference) -> None:
        name = self._request.target_name
        try:
            await self._target.put_manifest(name, reference, manifest.media_type, manifest.data)
        except ManifestBlobUnknown as error:
            if not self._left_out:
                raise
            raise TargetRefused(
                f"{self._target.title} refuses an index of which not all platforms are there ({error.subject}); "
                "copy all platforms, or let the target accept it: validation.manifests.indexes of Moorage and of "
                "CNCF Distribution 3"
            ) from error
        except RegistryError as error:
            if is_temporary(error):
                raise
            separator = "@" if isinstance(reference, Digest) else ":"
            message = f"{self._target.title} refuses {name}{separator}{reference}: {error}"
            raise TargetRefused(message, error) from error

    # --- referrers ---------------------------------------------------------------------------------------------

    async def find_referrers(self) -> list[ReferrersOf]:
        """Return what refers to the manifests of the image in the source, without subjects that have nothing."""
        top = next(iter(self._copied))

        async def find(subject: Digest) -> ReferrersOf:
            return await self._referrers_of(subject, tags=subject == top)

        found = await map_bounded(list(self._copied), find, limit=_AT_ONCE)
        return [one for one in found if one.referrers or one.tags]

    async def _referrers_of(self, subject: Digest, *, tags: bool) -> ReferrersOf:
        """Look up the referrers of a manifest; `tags`: those of cosign, too, though the tags are not known."""
        name = self._request.source_name
        try:
            referrers = await self._source.list_referrers(name, subject)
        except (ManifestUnknown, NameUnknown):
            referrers = ()
        signed: list[tuple[Tag, Digest]] = []
        known = self._request.known_tags
        for end in _COSIGN:
            tag = parse_tag(f"{subject.algorithm}-{subject.hex[:64]}.{end}")
            if not tags if known is None else tag not in known:
                continue
            try:
                signed.append((tag, await self._source.resolve(name, tag)))
            except (ManifestUnknown, NameUnknown):
                continue
        return ReferrersOf(subject, referrers, signed)

    async def copy_referrers(self, subjects: Sequence[ReferrersOf], depth: int = 1) -> None:
        """Copy referrers whose subjects are in the target, then those of the referrers."""
        for subject in subjects:
            added = await self._copy_listed(subject)
            for tag, digest in subject.tags:
                if await self._target.resolve(self._request.target_name, tag) == digest:
                    continue
                if (copied := await self._copy_referrer(digest)) is not None:
                    await self.put(copied, tag)
            further = [await self._referrers_of(digest, tags=False) for digest in added] if depth < _DEPTH else []
            await self.copy_referrers([one for one in further if one.referrers or one.tags], depth + 1)

    async def _copy_listed(self, subject: ReferrersOf) -> list[Digest]:
        """Copy the referrers that a list names, and see to it that the target lists them; return the new ones."""
        if not subject.referrers:
            return []
        name = self._request.target_name
        listed = await self._target.list_referrers(name, subject.subject)
        visited: list[Digest] = []
        added: list[Referrer] = []
        for referrer in subject.referrers:
            if referrer.digest in self._copied:
                continue
            copied = await self._copy_referrer(referrer.digest)
            if copied is None:
                continue
            visited.append(referrer.digest)
            await self.put(copied)
            if referrer.digest not in listed:
                added.append(referrer)
                self.counts.referrers += 1
        if added and not self._options.dry_run:
            await self._target.add_referrers(name, subject.subject, added)
        return visited

    async def _copy_referrer(self, digest: Digest) -> CopiedManifest | None:
        """Copy the content of a referrer, for all platforms; None if the source lists it but has lost it."""
        if (known := self._copied.get(digest)) is not None:
            return known
        stored = await self._target.find_manifest(self._request.target_name, digest)
        if stored is None:
            try:
                manifest = await self._source.get_manifest(self._request.source_name, digest)
            except (ManifestUnknown, NameUnknown):
                return None
        else:
            manifest = stored
        return await self._copy_named(manifest, self._parse(manifest), stored=stored is not None, depth=1)
