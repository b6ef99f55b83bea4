"""Bytes that were seen a moment ago are not requested again by a push to a remote store."""

from __future__ import annotations

import pytest
from tests.registry.instrumented import InstrumentedDriver
from tests.wire import image

from moorage.caches import TTLCache
from moorage.errors import ManifestBlobUnknown
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.manifests import StoredManifests
from moorage.registry.uploads import StoredUploads
from moorage.storage.memory import MemoryDriver
from moorage.types import Digest, RepoName, parse_tag

NAME = RepoName("some/name")
LAYER, CONFIG = b"a layer", b"{}"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting(InstrumentedDriver):
    """Records the blobs whose bytes were requested."""

    def __init__(self) -> None:
        super().__init__(MemoryDriver())
        self.requests: list[str] = []
        self.gate = CollectionGate(self)

    async def before(self, call: str) -> None:
        if call.startswith(f"stat {layout.BLOBS}"):
            self.requests.append(call)


async def push(driver: Counting, recent: TTLCache[Digest, int]) -> None:
    uploads = StoredUploads(driver, b"secret", store=BlobStore(driver, recent=recent), gate=driver.gate)
    for data in (LAYER, CONFIG):
        status = await uploads.start(NAME)
        async with uploads.extend(NAME, status.uuid, status.state) as part:
            await part.write(data)
            await part.finish(Digest.of(data))
    uploads.close()


async def put(driver: Counting, recent: TTLCache[Digest, int]) -> None:
    manifests = StoredManifests(driver, store=BlobStore(driver, recent=recent), gate=driver.gate)
    await manifests.put(
        NAME, parse_tag("v1"), "application/vnd.oci.image.manifest.v1+json", image(CONFIG, [LAYER])
    )


async def test_a_blob_that_was_pushed_a_moment_ago_is_not_requested() -> None:
    """Forty layers are forty requests less, on the way of a client that waits."""
    clock, driver = Clock(), Counting()
    recent: TTLCache[Digest, int] = TTLCache(10_000, 60, clock=clock)
    await push(driver, recent)
    await put(driver, recent)
    assert driver.requests == []
    clock.now = 61
    await put(driver, recent)
    assert len(driver.requests) == 2


async def test_links_are_read_however_recent_the_bytes() -> None:
    """Another node may have deleted the layer from this repository."""
    driver = Counting()
    recent: TTLCache[Digest, int] = TTLCache(10_000, 60)
    await push(driver, recent)
    await driver.delete([layout.layer_link(NAME, Digest.of(LAYER))])
    with pytest.raises(ManifestBlobUnknown):
        await put(driver, recent)


async def test_a_local_store_is_always_asked() -> None:
    """A stat of a file is cheaper than being wrong."""
    driver = Counting()
    recent: TTLCache[Digest, int] = TTLCache(0)
    await push(driver, recent)
    await put(driver, recent)
    assert len(driver.requests) == 2
