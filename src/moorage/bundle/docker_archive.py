"""Archives of `docker save` and of skopeo's `docker-archive`: no manifests, layers that are not compressed.

A registry needs a manifest, so one is built (Docker schema 2), and layers are compressed: gzip, level 6, no time
and no name in the header.  Equal layers so give equal digests, each time, on each machine with the same version of
zlib. They are not those of the registry that the image once came from; an OCI layout keeps them.

A layer is compressed twice, once for its digest and once to be sent, so that neither memory nor a disk has to hold
it. Every layer is compared with its digest in the config (`diff_ids`).

Above: `importer.py`.  Below: `files.py`.
Source: https://github.com/moby/docker-image-spec ("Combined Image JSON + Filesystem Changeset Format").
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moorage.bundle.contents import BundledImage
from moorage.bundle.errors import BundleInvalid
from moorage.bundle.files import read_json
from moorage.bundle.reader import MANIFEST_LIMIT_BYTES, BundleSource, split_name
from moorage.errors import BlobUnknown, DigestInvalid
from moorage.registry import media
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from moorage.bundle.files import BundleFiles
    from moorage.replication.progress import ReplicationProgress

__all__ = ["DockerBlobs", "open_docker_archive"]

_PIECE_BYTES: Final = 1 << 20
_LEVEL: Final = 6
_GZIP: Final = 31
"""zlib's window of 32 KiB, with the header and trailer of gzip."""
_GZIP_MAGIC: Final = b"\x1f\x8b"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True, slots=True)
class _ArchivedLayer:
    """A layer: its file in the archive, `compressed` there or not; digest and size as it is sent."""

    file: str
    compressed: bool
    digest: Digest
    size: int
    diff_id: Digest


class DockerBlobs:
    """See `reader.BlobFiles`: built manifests, configs, and layers that are compressed while they are read."""

    def __init__(self, files: BundleFiles) -> None:
        self.title: Final = files.title
        self._files = files
        self._documents: dict[Digest, bytes] = {}
        self._layers: dict[Digest, _ArchivedLayer] = {}

    def add_document(self, data: bytes) -> dict[str, Any]:
        """Add a manifest or config; return its digest and size as members of a descriptor."""
        digest = Digest.of(data)
        self._documents[digest] = data
        return {"size": len(data), "digest": str(digest)}

    def add_layer(self, layer: _ArchivedLayer) -> None:
        self._layers[layer.digest] = layer

    def size_of(self, digest: Digest) -> int | None:
        if (layer := self._layers.get(digest)) is not None:
            return layer.size
        data = self._documents.get(digest)
        return None if data is None else len(data)

    @asynccontextmanager
    async def open(self, digest: Digest, start: int = 0) -> AsyncIterator[AsyncIterator[bytes]]:
        if (data := self._documents.get(digest)) is not None:
            yield _once(data[start:])
        elif (layer := self._layers.get(digest)) is not None:
            with self._files.opened(layer.file) as read_at:
                yield _after(_plain(read_at) if layer.compressed else _compressed(read_at), start)
        else:
            raise BlobUnknown(str(digest))

    def close(self) -> None:
        self._files.close()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _after(chunks: AsyncIterator[bytes], start: int) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if start < len(chunk):
            yield chunk[start:]
        start = max(0, start - len(chunk))


async def _plain(read_at: Callable[[int, int], bytes]) -> AsyncIterator[bytes]:
    offset = 0
    while piece := await asyncio.to_thread(read_at, offset, _PIECE_BYTES):
        yield piece
        offset += len(piece)


async def _compressed(read_at: Callable[[int, int], bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    async for piece in _plain(read_at):
        if found := await asyncio.to_thread(compressor.compress, piece):
            yield found
    yield compressor.flush()


async def open_docker_archive(files: BundleFiles, progress: ReplicationProgress) -> BundleSource:
    """Read the archive, digest all layers and build the manifests.  Raises BundleInvalid."""
    entries = read_json(files, "manifest.json", MANIFEST_LIMIT_BYTES)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BundleInvalid(f"{files.title}: manifest.json is not that of docker save")
    blobs = DockerBlobs(files)
    known: dict[str, _ArchivedLayer] = {}
    images: list[BundledImage] = []
    for name in {name for entry in entries for name in _texts(entry, "Layers", files.title)}:
        progress.planned(files.size_of(name) or 0)
    for entry in entries:
        digest = await _add_image(files, blobs, entry, known, progress)
        tags = _texts(entry, "RepoTags", files.title)
        images += [BundledImage(*split_name(tag), digest) for tag in tags] or [BundledImage("", "", digest)]
    return BundleSource(blobs, images)


def _texts(entry: dict[str, Any], key: str, title: str) -> list[str]:
    found = entry.get(key) or []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise BundleInvalid(f"{title}: {key} of manifest.json is not a list of texts")
    return found


async def _add_image(
    files: BundleFiles,
    blobs: DockerBlobs,
    entry: dict[str, Any],
    known: dict[str, _ArchivedLayer],
    progress: ReplicationProgress,
) -> Digest:
    """Add config, layers and manifest of an image; return the digest of the manifest."""
    name = str(entry.get("Config"))
    config = read_json(files, name, MANIFEST_LIMIT_BYTES)
    diff_ids = _diff_ids(config, f"{files.title}: {name}")
    layers = _texts(entry, "Layers", files.title)
    if len(layers) != len(diff_ids):
        raise BundleInvalid(f"{files.title}: {name} has {len(diff_ids)} layers, manifest.json {len(layers)}")
    with files.opened(name) as read_at:
        data = read_at(0, MANIFEST_LIMIT_BYTES)
    descriptors = []
    for file, diff_id in zip(layers, diff_ids, strict=True):
        if file not in known:
            known[file] = await _examine(files, file, progress)
        layer = known[file]
        if layer.diff_id != diff_id:
            raise BundleInvalid(
                f"{files.title} is damaged: the layer {file} has the digest {layer.diff_id}, "
                f"its image names {diff_id}"
            )
        blobs.add_layer(layer)
        descriptors.append({"mediaType": _LAYER, "size": layer.size, "digest": str(layer.digest)})
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.DOCKER_MANIFEST,
        "config": {"mediaType": _CONFIG, **blobs.add_document(data)},
        "layers": descriptors,
    }
    return Digest.parse(blobs.add_document(json.dumps(manifest, separators=(",", ":")).encode())["digest"])


def _diff_ids(config: Any, where: str) -> list[Digest]:
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    texts = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    try:
        return [Digest.parse(str(text)) for text in (texts or [])]
    except (DigestInvalid, TypeError) as error:
        raise BundleInvalid(f"{where} is no config of an image: its diff_ids cannot be read") from error


async def _examine(files: BundleFiles, file: str, progress: ReplicationProgress) -> _ArchivedLayer:
    """Return a layer with its digests, compressed and not."""
    if files.size_of(file) is None:
        raise BundleInvalid(f"{files.title} has no {file}, which manifest.json names")
    plain, sent = hashlib.sha256(), hashlib.sha256()
    size = 0
    with files.opened(file) as read_at:
        is_compressed = read_at(0, len(_GZIP_MAGIC)) == _GZIP_MAGIC
        if is_compressed:
            expand = _Expander(f"{files.title}: {file}", plain.update)
            async for piece in _plain(read_at):
                sent.update(piece)
                size += len(piece)
                await asyncio.to_thread(expand.feed, piece)
                progress.moved(len(piece))
        else:
            compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
            async for piece in _plain(read_at):
                plain.update(piece)
                found = await asyncio.to_thread(compressor.compress, piece)
                sent.update(found)
                size += len(found)
                progress.moved(len(piece))
            found = compressor.flush()
            sent.update(found)
            size += len(found)
    return _ArchivedLayer(
        file,
        is_compressed,
        Digest("sha256", sent.hexdigest()),
        size,
        Digest("sha256", plain.hexdigest()),
    )


class _Expander:
    """Decompresses gzip, also of several members, with bounded memory."""

    def __init__(self, where: str, sink: Callable[[bytes], object]) -> None:
        self._where = where
        self._sink = sink
        self._stream = zlib.decompressobj(_GZIP)

    def feed(self, data: bytes) -> None:
        while data:
            try:
                found = self._stream.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise BundleInvalid(f"{self._where} is not gzip to its end; the file is damaged") from error
            self._sink(found)
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data = self._stream.unused_data.lstrip(b"\0")
                self._stream = zlib.decompressobj(_GZIP)
