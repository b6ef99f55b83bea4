"""Bundles as a source of images: OCI layouts of any program, in a tar file, in volumes or in a directory.

The file comes from another site, so nothing of it is trusted: sizes of documents are bounded, manifests are
compared with their digests when they are read, blobs by the target before it stores them.

Names of images are those of `index.json`: `io.containerd.image.name` (Docker, containerd), else
`org.opencontainers.image.ref.name` (skopeo), which may be only a tag.

Above: `importer.py`, `export.py` (bases of incremental bundles).  Below: `files.py`, `contents.py`.
Source: image-spec 1.1 "Image Layout", "Pre-Defined Annotation Keys".
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorage.bundle.contents import (
    CONTENTS_LIMIT_BYTES,
    CONTENTS_NAME,
    BundleContents,
    BundledImage,
)
from moorage.bundle.errors import BundleInvalid
from moorage.bundle.files import read_json
from moorage.errors import BlobUnknown, DigestInvalid, ManifestInvalid, ManifestUnknown
from moorage.registry import media
from moorage.registry.interface import Manifest
from moorage.types import Digest, Referrer, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from moorage.bundle.files import BundleFiles
    from moorage.types import Reference

__all__ = ["MANIFEST_LIMIT_BYTES", "BlobFiles", "BundleSource", "LayoutBlobs", "open_layout", "split_name"]

MANIFEST_LIMIT_BYTES: Final = 4 << 20
_INDEX_LIMIT_BYTES: Final = CONTENTS_LIMIT_BYTES
_PIECE_BYTES: Final = 1 << 20
_REF_NAME: Final = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME: Final = "io.containerd.image.name"
_BLOB: Final = re.compile(r"blobs/(sha256|sha512)/(.*)", re.DOTALL)


class BlobFiles(Protocol):
    """Blobs and manifests of a bundle by their digests."""

    @property
    def title(self) -> str:
        """Return the name of the file in messages."""

    def size_of(self, digest: Digest) -> int | None:
        """Return the size in bytes, None if the bundle does not have it."""

    def open(self, digest: Digest, start: int = 0) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Stream the bytes from `start` on.  Raises BlobUnknown."""

    def close(self) -> None:
        """Close the files."""


class LayoutBlobs:
    """See `BlobFiles`: files of an OCI layout.  Raises BundleInvalid for names that are no digests."""

    def __init__(self, files: BundleFiles) -> None:
        self.title: Final = files.title
        self._files = files
        self._digests: list[Digest] = []
        for name in files.names_below("blobs"):
            found = _BLOB.fullmatch(name)
            if found is None:
                continue  # of an algorithm that is not supported; nothing can refer to it
            try:
                self._digests.append(Digest.parse(f"{found[1]}:{found[2]}"))
            except DigestInvalid as error:
                raise BundleInvalid(
                    f"{files.title}: the name {name!a} is no digest in lower case; the file is not to be trusted"
                ) from error

    def digests(self) -> list[Digest]:
        """Return the digests of all files."""
        return list(self._digests)

    def size_of(self, digest: Digest) -> int | None:
        return self._files.size_of(_path(digest))

    @asynccontextmanager
    async def open(self, digest: Digest, start: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        if self.size_of(digest) is None:
            raise BlobUnknown(str(digest))
        with self._files.opened(_path(digest)) as read_at:

            async def pieces() -> AsyncIterator[bytes]:
                offset = start
                while piece := await asyncio.to_thread(read_at, offset, _PIECE_BYTES):
                    yield piece
                    offset += len(piece)

            yield pieces()

    def close(self) -> None:
        self._files.close()


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


class BundleSource:
    """See `replication.endpoints.ImageSource`.  `contents` is None if another program wrote the file."""

    def __init__(
        self, blobs: BlobFiles, images: Sequence[BundledImage], contents: BundleContents | None = None
    ) -> None:
        self.title: Final = blobs.title
        self.images: Final = tuple(images)
        self.contents: Final = contents
        self._blobs = blobs
        self._extra: list[Digest] = []
        self._referrers: dict[Digest, list[Referrer]] | None = None
        self._places: dict[Digest, frozenset[str]] = {}
        self._tags: dict[tuple[str, str], Digest] = {}
        if contents is not None:
            self._places = {item.digest: frozenset(item.repositories) for item in contents.content}
        for image in images:
            if image.tag and self._tags.setdefault((image.name, image.tag), image.digest) != image.digest:
                raise BundleInvalid(f"{self.title} has two images named {image.reference}")

    def add_entries(self, digests: Sequence[Digest]) -> None:
        """Add manifests without names, among which are referrers."""
        self._extra += digests

    def size_of(self, digest: Digest) -> int | None:
        """Return the size of a manifest or blob, None if the bundle does not have it."""
        return self._blobs.size_of(digest)

    async def resolve(self, name: RepoName, tag: Tag) -> Digest:
        found = self._tags.get((name, tag))
        if found is None:
            raise ManifestUnknown(f"{name}:{tag}")
        return found

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest:
        digest = reference if isinstance(reference, Digest) else await self.resolve(name, reference)
        size = self._blobs.size_of(digest)
        if size is None:
            raise ManifestUnknown(str(digest))
        if size > MANIFEST_LIMIT_BYTES:
            raise BundleInvalid(f"{self.title}: the manifest {digest} has {size} bytes; at most 4 MiB are read")
        async with self._blobs.open(digest) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        if Digest.of(data, digest.algorithm) != digest:
            raise BundleInvalid(f"{self.title} is damaged: its {digest} does not have that digest; copy it again")
        try:
            return Manifest(digest, media.stored_type(data), data)
        except ManifestInvalid as error:
            raise BundleInvalid(f"{self.title}: {digest} is no manifest: {error.subject}") from error

    async def stat_blob(self, name: RepoName, digest: Digest) -> int:
        del name
        size = self._blobs.size_of(digest)
        if size is None:
            raise BlobUnknown(str(digest))
        return size

    def open_blob(
        self, name: RepoName, digest: Digest, *, start: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        del name
        return self._blobs.open(digest, start)

    async def list_tags(self, name: RepoName) -> AsyncIterator[Sequence[Tag]]:
        yield [Tag(tag) for found, tag in self._tags if found == name]

    async def list_repositories(self) -> AsyncIterator[Sequence[RepoName]]:
        yield [RepoName(name) for name in sorted({image.name for image in self.images if image.name})]

    async def list_referrers(self, name: RepoName, subject: Digest) -> Sequence[Referrer]:
        if self._referrers is None:
            self._referrers = await self._read_referrers()
        # A signature of one repository is none of another one that has the same image.
        return [
            referrer
            for referrer in self._referrers.get(subject, ())
            if self.contents is None or name in self._places.get(referrer.digest, ())
        ]

    async def _read_referrers(self) -> dict[Digest, list[Referrer]]:
        found: dict[Digest, list[Referrer]] = {}
        for digest in dict.fromkeys((*(image.digest for image in self.images), *self._extra)):
            manifest = await self.get_manifest(RepoName(""), digest)
            parsed = media.stored_description(manifest.data)
            if parsed.subject is not None:
                entry: dict[str, Any] = {
                    "mediaType": manifest.media_type,
                    "digest": str(digest),
                    "size": len(manifest.data),
                }
                if parsed.artifact_type:
                    entry["artifactType"] = parsed.artifact_type
                if parsed.annotations:
                    entry["annotations"] = parsed.annotations
                referrer = Referrer(
                    digest, parsed.artifact_type, json.dumps(entry, separators=(",", ":")).encode()
                )
                found.setdefault(parsed.subject, []).append(referrer)
        return found

    def close(self) -> None:
        """Close the files."""
        self._blobs.close()


async def open_layout(files: BundleFiles) -> BundleSource:
    """Read `index.json` and, if there is one, `moorage.json` of an OCI layout.  Raises BundleInvalid."""
    if files.has_links:
        raise BundleInvalid(f"{files.title} has links, which no bundle needs; the file is not to be trusted")
    version = read_json(files, "oci-layout", MANIFEST_LIMIT_BYTES)
    if not isinstance(version, dict) or not str(version.get("imageLayoutVersion", "")).startswith("1."):
        raise BundleInvalid(f"{files.title}: oci-layout is not that of version 1 of the image layout")
    blobs = LayoutBlobs(files)
    index = read_json(files, "index.json", _INDEX_LIMIT_BYTES)
    if files.size_of(CONTENTS_NAME) is not None:
        contents = BundleContents.decode(read_json(files, CONTENTS_NAME, CONTENTS_LIMIT_BYTES), files.title)
        if json.loads(contents.index()) != index:
            raise BundleInvalid(
                f"{files.title}: index.json and {CONTENTS_NAME} disagree; the file was changed after it "
                "was written"
            )
        source = BundleSource(blobs, contents.images, contents)
        source.add_entries([digest for entry in contents.referrers if (digest := _digest(entry, files.title))])
        return source
    return await _foreign(files.title, blobs, index)


async def _foreign(title: str, blobs: BlobFiles, index: Any) -> BundleSource:
    """Return the images of an index of another program; entries without a name may be referrers."""
    entries = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(entries, list):
        raise BundleInvalid(f"{title}: index.json has no list of manifests")
    images: list[BundledImage] = []
    unnamed: list[Digest] = []
    for entry in entries:
        digest = _digest(entry, title)
        annotations = entry.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise BundleInvalid(f"{title}: an entry of index.json has annotations that are no map")
        text = annotations.get(_CONTAINERD_NAME) or annotations.get(_REF_NAME) or ""
        if text:
            images.append(BundledImage(*split_name(str(text)), digest))
        else:
            unnamed.append(digest)
    plain = BundleSource(blobs, images)
    for digest in unnamed:
        manifest = await plain.get_manifest(RepoName(""), digest)
        if media.stored_subject(manifest.data) is None:
            images.append(BundledImage("", "", digest))
    source = BundleSource(blobs, images)
    source.add_entries(unnamed)
    return source


def _digest(entry: Any, title: str) -> Digest:
    text = entry.get("digest") if isinstance(entry, dict) else None
    try:
        return Digest.parse(str(text))
    except DigestInvalid as error:
        raise BundleInvalid(
            f"{title}: an entry of index.json has no sha256 or sha512 digest: {text!a:.100}"
        ) from error


def split_name(text: str) -> tuple[str, str]:
    """Return name and tag of `host:5000/name:tag@digest`; a text without separators is a tag."""
    name, at, _ = text.partition("@")
    folder, slash, last = name.rpartition("/")
    component, colon, tag = last.partition(":")
    if not (at or slash or colon):
        return "", text
    return f"{folder}{slash}{component}", tag
