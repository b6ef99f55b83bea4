"""Export of images into a bundle: planned, then written front to back, and continued after an interruption.

    plan      manifests are read, so that all content with its sizes is known          ExportPlan
    check     space; what an unfinished file contains                                  BundleWriter.prepare
    write     manifests and blobs, each proven by its digest; names when all is there  BundleWriter.append

A continued export keeps the plan of the first run: tags that moved meanwhile do not mix two states.

Above: `cli/export.py`.  Below: `plan.py`, `writer.py`, `replication/images.py`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from moorage.backoff import Backoff, equal_jitter
from moorage.bundle.archive import members
from moorage.bundle.contents import CONTENTS_LIMIT_BYTES, CONTENTS_NAME, BundleContents
from moorage.bundle.errors import BundleError, OutputFull, OutputRefused
from moorage.bundle.plan import ExportPlan
from moorage.bundle.volumes import VolumeReader, VolumeWriter
from moorage.bundle.writer import BundleWriter, ContentRefused
from moorage.concurrency import map_bounded
from moorage.errors import BlobUnknown, ManifestUnknown, NameUnknown
from moorage.replication.errors import ImageIncomplete
from moorage.replication.failures import is_temporary
from moorage.replication.images import ImageCopier
from moorage.replication.requests import CopyRequest
from moorage.types import RepoName

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from moorage.bundle.contents import BaseBundle, ContentItem, ExportParameters
    from moorage.replication.endpoints import ImageSource
    from moorage.replication.platforms import ImagePlatform
    from moorage.types import Digest, Reference, Tag

__all__ = ["ExportProgress", "ExportResult", "ExportedImage", "Exporter"]

_SHOWN: Final = 10
_ATTEMPTS: Final = 5
"""Requests for the rest of a blob that bring no byte, one after the other."""
_BACKOFF: Final = Backoff.exponential(0.5, 8.0)


@dataclass(frozen=True, slots=True)
class ExportedImage:
    """An image to export: `name` and `tag` are those in the bundle; `tag` None: by its digest only."""

    source: ImageSource
    source_name: RepoName
    reference: Reference
    name: RepoName
    tag: Tag | None


class ExportProgress(Protocol):
    """Receives progress; must not block."""

    def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None:
        """A phase begins; `total` is None if it is not known."""

    def advance(self, count: int) -> None:
        """`count` more images or bytes are done."""


@dataclass(slots=True)
class ExportResult:
    """A finished bundle.  `continued`: bytes that an earlier run had written."""

    paths: list[Path]
    contents: BundleContents
    size: int
    continued: int


class Exporter:
    """Exports images into the bundle `output`.

    `left_out` are the blobs that the other side has, with the repositories that have them there; `base` is named
    in the bundle.
    """

    def __init__(
        self,
        output: Path,
        request: ExportParameters,
        progress: ExportProgress,
        *,
        left_out: Mapping[Digest, tuple[str, ...]] | None = None,
        base: BaseBundle | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._output = output
        self._request = request
        self._progress = progress
        self._left_out = left_out or {}
        self._base = base
        self._sleep = sleep
        self._plan = ExportPlan(str(output), self._left_out)

    async def run(
        self, images: Sequence[ExportedImage], platforms: tuple[ImagePlatform, ...] = ()
    ) -> ExportResult:
        """Write the bundle, or the rest of it.

        Raises BundleError, ReplicationError, and the errors of the sources; what was written stays.
        """
        volumes = VolumeWriter(self._output, self._request.volume_bytes)
        try:
            contents = self._unfinished(volumes) or await self._planned(images, platforms)
            writer = BundleWriter(volumes, contents)
            self._check_space(writer.total - volumes.length)
            is_new = not volumes.length
            if not is_new:
                self._progress.begin("checking what is there", volumes.length, is_bytes=True)
            await writer.prepare(self._progress.advance)
            continued = 0 if is_new else volumes.length
            self._progress.begin("writing", writer.total, is_bytes=True)
            self._progress.advance(volumes.length)
            sources = {image.name: image for image in images}
            for item, present in writer.pending():
                await self._write(writer, item, present, sources)
            paths = await writer.finish()
            return ExportResult(paths, contents, volumes.length, continued)
        finally:
            volumes.close()

    def _unfinished(self, volumes: VolumeWriter) -> BundleContents | None:
        """Return the contents of an unfinished bundle, None if there is none.  Raises OutputRefused."""
        where = volumes.partial_path(1)
        with VolumeReader(volumes.partial_paths()) as reader:
            contents: BundleContents | None = None
            try:
                for member in members(reader.read_at, reader.length, str(where)):
                    if member.name == CONTENTS_NAME and member.size <= CONTENTS_LIMIT_BYTES:
                        contents = BundleContents.parse(reader.read_at(member.offset, member.size), str(where))
                    if member.name == "index.json":
                        break
                else:
                    contents = None
            except BundleError:
                return None  # it ends before its contents do, so nothing is lost
        if contents is not None and contents.request != self._request:
            raise OutputRefused(
                f"{where} is left of an export of other images or with other options; remove it, or "
                "name another output"
            )
        return contents

    async def _planned(
        self, images: Sequence[ExportedImage], platforms: tuple[ImagePlatform, ...]
    ) -> BundleContents:
        self._progress.begin("images", len(images))
        copiers: dict[int, ImageCopier] = {}
        try:
            for image in images:
                if id(image.source) not in copiers:
                    copiers[id(image.source)] = ImageCopier(image.source, self._plan)
                result = await copiers[id(image.source)].copy(
                    CopyRequest(
                        image.source_name,
                        image.reference,
                        image.name,
                        image.tag,
                        platforms,
                        referrers=self._request.referrers,
                    )
                )
                if image.tag is None:
                    self._plan.add_untagged(image.name, result.digest)
                self._progress.advance(1)
        finally:
            for copier in copiers.values():
                await copier.close()
        await self._check_sources({image.name: image for image in images})
        return BundleContents(
            self._request,
            self._plan.images(),
            self._plan.content(),
            self._plan.referrers(),
            self._plan.omitted(self._left_out),
            self._base,
        )

    async def _check_sources(self, images: Mapping[RepoName, ExportedImage]) -> None:
        """Raise ImageIncomplete for blobs that a registry has lost, before hours are spent on the others."""
        lost: dict[str, list[Digest]] = {}

        async def check(item: ContentItem) -> None:
            image = images[RepoName(item.repositories[0])]
            try:
                await image.source.stat_blob(image.source_name, item.digest)
            except (BlobUnknown, NameUnknown):
                lost.setdefault(f"{image.source.title}: {image.source_name}", []).append(item.digest)

        await map_bounded((item for item in self._plan.content() if not item.is_manifest), check)
        if lost:
            shown = "; ".join(f"{where} lacks {', '.join(digests[:_SHOWN])}" for where, digests in lost.items())
            raise ImageIncomplete(f"{shown}, though its images name it; push them to the source again")

    def _check_space(self, needed: int) -> None:
        found = os.statvfs(self._output.absolute().parent)
        free = found.f_bavail * found.f_frsize
        if free < needed:
            raise OutputFull(
                f"{self._output.absolute().parent} has {free} bytes of free space; the export needs {needed}"
            )

    async def _write(
        self, writer: BundleWriter, item: ContentItem, present: int, sources: Mapping[RepoName, ExportedImage]
    ) -> None:
        image = next((sources[RepoName(name)] for name in item.repositories if name in sources), None)
        if image is None:
            raise OutputRefused(f"{self._output}: its unfinished export names other repositories; remove it")
        where = f"{image.source.title}: {image.source_name}@{item.digest}"
        try:
            async with aclosing(self._chunks(image, item, present)) as chunks:
                await writer.append(chunks)
        except ContentRefused as error:
            if present:  # a torn end; the next round begins the blob anew
                self._progress.advance(-item.size)
                return
            raise ContentRefused(f"{where}: {error}; check the registry") from error
        except (BlobUnknown, ManifestUnknown, NameUnknown):
            raise BundleError(
                f"{where} is missing there; if it was deleted since the export began, remove the unfinished "
                f"{self._output} and begin anew"
            ) from None

    async def _chunks(self, image: ExportedImage, item: ContentItem, start: int) -> AsyncGenerator[bytes]:
        if item.is_manifest:
            data = self._plan.manifest(item.digest)
            if data is None:
                data = (await image.source.get_manifest(image.source_name, item.digest)).data
            self._progress.advance(len(data) - start)
            yield data[start:]
            return
        passed, failures = start, 0
        while True:
            at = passed
            try:
                async with image.source.open_blob(image.source_name, item.digest, start=passed) as chunks:
                    async for chunk in chunks:
                        passed += len(chunk)
                        self._progress.advance(len(chunk))
                        yield chunk
            except Exception as error:
                failures = failures + 1 if passed == at else 1
                if not is_temporary(error) or failures >= _ATTEMPTS:
                    raise
                await self._sleep(equal_jitter(_BACKOFF.delay_s(failures)))
            else:
                return
