"""A mirror passes the part of the registry's contract that reads; pushes are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.proxy.mirrors import make_mirror
from tests.upstream.faulty import FaultyRegistry

from moorage.errors import Unsupported
from moorage.registry.interface import Page
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import image
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.testing.pull_contract import PullContract
from moorage.testing.registry_fixtures import ABSENT, NAME, OTHER
from moorage.types import parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from moorage.registry.interface import Registry
    from moorage.storage.driver import Driver
    from moorage.testing.builders import Built
    from moorage.testing.registry_fixtures import Publish
    from moorage.types import RepoName


class MirrorContract(PullContract):
    """The contract over `driver`; what is published is at the upstream registry only."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def upstream(self) -> AsyncIterator[FaultyRegistry]:
        async with FaultyRegistry() as upstream:
            yield upstream

    @pytest.fixture
    def connect(self, upstream: FaultyRegistry, driver: Driver, tmp_path: Path) -> Callable[[], Registry]:
        return lambda: make_mirror(upstream, tmp_path, driver=driver)

    @pytest.fixture
    def publish(self, upstream: FaultyRegistry) -> Publish:
        async def publish(built: Built, *tags: str, name: RepoName = NAME) -> None:
            for part in built.closure:
                if part.is_manifest:
                    upstream.manifests_of(name)[part.digest] = (part.media_type, part.data)
                else:
                    upstream.blobs_of(name)[part.digest] = part.data
            upstream.tags_of(name).update(dict.fromkeys(tags, built.digest))

        return publish

    async def test_the_catalog_is_in_order_of_components(self, registry: Registry, publish: Publish) -> None:
        """It lists what is stored: an upstream registry is not asked for everything that it has."""
        await publish(image(), "1")
        assert await registry.repositories.list(limit=10) == Page((), more=False)
        await registry.manifests.get(NAME, parse_tag("1"))
        assert await registry.repositories.list(limit=10) == Page((NAME,), more=False)

    async def test_pushes_and_deletions_are_refused(self, registry: Registry) -> None:
        """A push into a cache would be overwritten or lost; the client reads where to push."""
        pushed = image()
        for refused in (
            registry.uploads.start(NAME),
            registry.uploads.status(NAME, "uuid"),
            registry.uploads.cancel(NAME, "uuid", "state"),
            registry.blobs.mount(NAME, ABSENT, OTHER),
            registry.blobs.delete(NAME, ABSENT),
            registry.manifests.put(NAME, parse_tag("new"), pushed.media_type, pushed.data),
            registry.manifests.delete(NAME, ABSENT),
            registry.repositories.delete(NAME),
        ):
            with pytest.raises(Unsupported, match="is a mirror of library/app at"):
                await refused
        with pytest.raises(Unsupported, match="push to that registry"):
            registry.uploads.extend(NAME, "uuid", "state")


class TestFilesystem(MirrorContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        (tmp_path / "store").mkdir()
        return FilesystemDriver(tmp_path / "store")


class TestObjects(MirrorContract):
    """Blobs are copied from the spool."""

    @pytest.fixture
    def driver(self) -> Driver:
        return ObjectDriver.with_chunk_log(MemoryObjects(Bucket(), chunk=1000))
