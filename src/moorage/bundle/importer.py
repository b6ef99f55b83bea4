"""Import of a bundle into a registry: examined as a whole before anything is written, then copied.

    names     every image gets a valid repository and tag                              ImportNames
    check     what the target has, what the bundle holds; what neither has is refused  CheckedTarget
    copy      content, then manifests, then tags, each proven by its digest            replication/images.py

An import that was interrupted is run again and copies what is missing.

Above: `cli/import_.py`.  Below: `reader.py`, `docker_archive.py`, `replication/images.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.bundle.docker_archive import open_docker_archive
from moorage.bundle.errors import BaseMissing, BundleInvalid
from moorage.bundle.files import open_files
from moorage.bundle.reader import open_layout
from moorage.replication.images import ImageCopier
from moorage.replication.platforms import ImagePlatform
from moorage.replication.progress import CopyCounts
from moorage.replication.requests import CopyRequest
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from pathlib import Path

    from moorage.bundle.contents import BundledImage
    from moorage.bundle.naming import ImportNames
    from moorage.bundle.reader import BundleSource
    from moorage.registry.interface import Manifest
    from moorage.replication.endpoints import ImageTarget
    from moorage.replication.progress import ReplicationProgress
    from moorage.replication.requests import ReplicationOptions
    from moorage.types import Digest, Reference, Referrer, Tag

__all__ = ["CheckedTarget", "ImportResult", "ImportedImage", "import_bundle", "open_bundle"]

_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class ImportedImage:
    """An image that is whole in the target; `tagged`: its tag was set or moved by this import."""

    name: RepoName
    tag: Tag | None
    digest: Digest
    tagged: bool


@dataclass(slots=True)
class ImportResult:
    """The images of a bundle, with the content that was copied."""

    images: list[ImportedImage] = field(default_factory=list)
    counts: CopyCounts = field(default_factory=CopyCounts)


async def open_bundle(path: Path, progress: ReplicationProgress) -> BundleSource:
    """Open a bundle of any supported kind.  Raises BundleError."""
    files = open_files(path)
    try:
        # Newer versions of docker save write both, and the layout keeps digests.
        if files.size_of("oci-layout") is not None:
            return await open_layout(files)
        if files.size_of("manifest.json") is not None:
            return await open_docker_archive(files, progress)
        raise BundleInvalid(
            f"{files.title} is no bundle: it has neither an oci-layout (OCI layouts) nor a manifest.json "
            "(docker save)"
        )
    except BaseException:
        files.close()
        raise


async def import_bundle(
    source: BundleSource,
    target: ImageTarget,
    names: ImportNames,
    *,
    platforms: tuple[ImagePlatform, ...] = (),
    referrers: bool = True,
    options: ReplicationOptions | None = None,
    progress: ReplicationProgress | None = None,
) -> ImportResult:
    """Import all images.  Raises BundleError before anything is written, and the errors of a copy."""
    images = names.targets(source.title, source.images)
    if source.contents is not None and not platforms:
        platforms = tuple(map(ImagePlatform.parse, source.contents.request.platforms))

    def request(image: BundledImage, name: RepoName, tag: Tag | None) -> CopyRequest:
        return CopyRequest(RepoName(image.name), image.digest, name, tag, platforms, referrers=referrers)

    requests = [request(*image) for image in images]
    checked = CheckedTarget(source, target, names)
    copier = ImageCopier(source, checked, options)
    try:
        for each in requests:
            await copier.copy(each)
    finally:
        await copier.close()
    checked.refuse_missing()
    if options is None or not options.dry_run:
        for name, digest, place in checked.mounts:
            await target.mount_blob(name, digest, place)
    result = ImportResult()
    copier = ImageCopier(source, target, options, progress)
    try:
        for each in requests:
            copied = await copier.copy(each)
            result.counts.add(copied.counts)
            result.images.append(ImportedImage(each.target_name, each.target_tag, copied.digest, copied.tagged))
    finally:
        await copier.close()
    return result


class CheckedTarget:
    """A target of copies that stores nothing and records what neither the bundle nor the real target has."""

    def __init__(self, source: BundleSource, target: ImageTarget, names: ImportNames) -> None:
        self.title: Final = target.title
        self._source = source
        self._target = target
        self._omitted: dict[Digest, tuple[RepoName, ...]] = {}
        if source.contents is not None:
            own = [place for image in source.images for place in names.places(image.name)]
            self._omitted = {
                item.digest: tuple(
                    dict.fromkeys((*(place for name in item.repositories for place in names.places(name)), *own))
                )
                for item in source.contents.omitted
            }
        self._base: set[Digest] = set()
        self._lost: set[Digest] = set()
        self.mounts: list[tuple[RepoName, Digest, RepoName]] = []

    def refuse_missing(self) -> None:
        """Raise BaseMissing or BundleInvalid if anything is missing."""
        if self._lost:
            raise BundleInvalid(
                f"{self._source.title} is incomplete: its images name content that it does not hold: "
                f"{_shown(self._lost)}. Nothing was written"
            )
        if self._base:
            contents = self._source.contents
            base = contents.base if contents is not None else None
            raise BaseMissing(
                self._source.title,
                self.title,
                "the content of its --have list" if base is None else f"its base {base.name} ({base.id})",
                self._base,
            )

    async def resolve(self, name: RepoName, tag: Tag) -> Digest | None:
        del name, tag
        return None

    async def find_manifest(self, name: RepoName, digest: Digest) -> Manifest | None:
        return await self._target.find_manifest(name, digest)

    async def has_blob(self, name: RepoName, digest: Digest) -> bool:
        if await self._target.has_blob(name, digest):
            return True
        if self._source.size_of(digest) is not None:
            return False
        for place in self._omitted.get(digest, ()):
            if place != name and await self._target.has_blob(place, digest):
                self.mounts.append((name, digest, place))
                return True
        return False

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        del name, digest, source
        return False

    async def put_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Record a blob that is missing, without reading it.  Raises BundleInvalid for one of another size."""
        del name, chunks
        found = self._source.size_of(digest)
        if found is None:
            (self._base if digest in self._omitted else self._lost).add(digest)
        elif found != size:
            raise BundleInvalid(
                f"{self._source.title} is damaged: {digest} has {found} bytes, its manifest names {size}. Nothing "
                "was written"
            )

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> None:
        """Do nothing."""

    async def list_referrers(self, name: RepoName, subject: Digest) -> frozenset[Digest]:
        del name, subject
        return frozenset()

    async def add_referrers(self, name: RepoName, subject: Digest, added: Sequence[Referrer]) -> None:
        """Do nothing."""


def _shown(digests: Collection[Digest]) -> str:
    more = f" and {len(digests) - _SHOWN} more" if len(digests) > _SHOWN else ""
    return ", ".join(sorted(digests)[:_SHOWN]) + more
