"""Two registries in memory, and endpoints that fail or change on command."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from moorage.errors import Unavailable
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.replication.local import LocalSource, LocalTarget
from moorage.storage.memory import MemoryDriver
from moorage.testing.registry_fixtures import NAME, content_of, push

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from moorage.registry.interface import Manifest, Registry
    from moorage.testing.builders import Built
    from moorage.types import Digest, Reference, RepoName, Tag

__all__ = ["RecordingTarget", "StubbornSource", "has_whole", "new_registry", "no_sleep", "push"]


def new_registry(options: StoredOptions | None = None) -> StoredRegistry:
    return StoredRegistry(MemoryDriver(), b"secret", options)


async def no_sleep(seconds: float) -> None:
    """Wait for nothing."""


async def has_whole(registry: Registry, built: Built, *, name: RepoName = NAME) -> bool:
    """Return whether a repository has every byte of an image; raises the registry's error if not."""
    for part in built.closure:
        if part.is_manifest:
            found = (await registry.manifests.get(name, part.digest)).data
        else:
            found = await content_of(await registry.blobs.fetch(name, part.digest, redirect=False))
        assert found == part.data
    return True


class StubbornSource(LocalSource):
    """A source that cuts, corrupts or loses what it has; `opened` counts the requests for bytes by their start."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry, title="source.test")
        self.opened: list[int] = []
        self.cut_after: int | None = None
        self.replaced: dict[Digest, bytes] = {}
        self.before_manifest: Callable[[], object] | None = None
        self.failures = 0

    async def get_manifest(self, name: RepoName, reference: Reference) -> Manifest:
        if self.before_manifest is not None:
            pending, self.before_manifest = self.before_manifest, None
            await pending()  # type: ignore[misc]  # a coroutine function of the test
        return await super().get_manifest(name, reference)

    async def resolve(self, name: RepoName, tag: Tag) -> Digest:
        if self.failures:
            self.failures -= 1
            raise Unavailable("the connection was closed")
        return await super().resolve(name, tag)

    @asynccontextmanager
    async def open_blob(
        self, name: RepoName, digest: Digest, *, start: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.opened.append(start)
        async with super().open_blob(name, digest, start=start) as chunks:
            data = self.replaced.get(digest) or b"".join([chunk async for chunk in chunks])
        yield self._chunks(data)

    async def _chunks(self, data: bytes) -> AsyncIterator[bytes]:
        if self.cut_after is None or self.cut_after >= len(data):
            yield data
            return
        yield data[: self.cut_after]
        raise Unavailable("the connection was closed")


class RecordingTarget(LocalTarget):
    """A target that records its writes in order: digests of blobs and manifests, tags."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry, title="target.test")
        self.written: list[str] = []
        self.mounted: list[str] = []

    async def mount_blob(self, name: RepoName, digest: Digest, source: RepoName) -> bool:
        mounted = await super().mount_blob(name, digest, source)
        if mounted:
            self.mounted.append(str(digest))
        return mounted

    async def put_blob(self, name: RepoName, digest: Digest, size: int, chunks: AsyncIterator[bytes]) -> None:
        await super().put_blob(name, digest, size, chunks)
        self.written.append(str(digest))

    async def put_manifest(self, name: RepoName, reference: Reference, media_type: str, data: bytes) -> None:
        await super().put_manifest(name, reference, media_type, data)
        self.written.append(str(reference))
