"""Two sites: registries in memory, and exports from one and imports into the other as the commands do them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moorage.bundle.contents import ExportParameters
from moorage.bundle.export import ExportedImage, Exporter
from moorage.bundle.importer import import_bundle, open_bundle
from moorage.bundle.naming import ImportNames
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.replication.local import LocalSource, LocalTarget
from moorage.replication.platforms import ImagePlatform
from moorage.replication.progress import SilentProgress
from moorage.storage.memory import MemoryDriver
from moorage.testing.registry_fixtures import content_of
from moorage.types import Digest, parse_repo_name, parse_tag

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.bundle.export import ExportResult
    from moorage.bundle.importer import ImportResult
    from moorage.replication.endpoints import ImageSource
    from moorage.testing.builders import Built

__all__ = ["Recorder", "export", "exported", "imported", "new_registry", "pulled"]


@dataclass
class Recorder:
    """Progress of an export: its phases, and the bytes that were written in this run."""

    phases: list[str] = field(default_factory=list)
    done: int = 0

    def begin(self, phase: str, total: int | None, *, is_bytes: bool = False) -> None:
        del total, is_bytes
        self.phases.append(phase)
        self.done = 0

    def advance(self, count: int) -> None:
        self.done += count


def new_registry(**options: Any) -> StoredRegistry:
    return StoredRegistry(MemoryDriver(), b"secret", StoredOptions(**options))


def exported(source: ImageSource, text: str) -> ExportedImage:
    """An image as `name:tag` or `name@digest`."""
    name_text, at, digest_text = text.partition("@")
    name_text, _, tag_text = name_text.partition(":")
    name = parse_repo_name(name_text)
    tag = parse_tag(tag_text) if tag_text else None
    reference = Digest.parse(digest_text) if at else tag
    assert reference is not None
    return ExportedImage(source, name, reference, name, tag)


async def export(
    registry: StoredRegistry | ImageSource,
    output: Path,
    *texts: str,
    platforms: tuple[str, ...] = (),
    volume_bytes: int | None = None,
    progress: Recorder | None = None,
    **options: Any,
) -> ExportResult:
    source = LocalSource(registry) if isinstance(registry, StoredRegistry) else registry
    request = ExportParameters(texts, platforms, volume_bytes=volume_bytes)
    exporter = Exporter(output, request, progress or Recorder(), **options)
    return await exporter.run(
        [exported(source, text) for text in texts], tuple(map(ImagePlatform.parse, platforms))
    )


async def imported(
    registry: StoredRegistry, path: Path, *, names: ImportNames | None = None, platforms: tuple[str, ...] = ()
) -> ImportResult:
    source = await open_bundle(path, SilentProgress())
    try:
        return await import_bundle(
            source,
            LocalTarget(registry),
            names or ImportNames(),
            platforms=tuple(map(ImagePlatform.parse, platforms)),
        )
    finally:
        source.close()


async def pulled(registry: StoredRegistry, name: str, tag: str, built: Built) -> None:
    """Assert that a client that pulls the tag gets every byte of `built`."""
    repository = parse_repo_name(name)
    assert (await registry.manifests.get(repository, parse_tag(tag))).digest == built.digest
    for part in built.closure:
        if part.is_manifest:
            assert (await registry.manifests.get(repository, part.digest)).data == part.data
        else:
            found = await registry.blobs.fetch(repository, part.digest, redirect=False)
            assert await content_of(found) == part.data
