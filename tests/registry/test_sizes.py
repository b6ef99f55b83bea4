"""The cache of sizes, and the events that drop an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.registry.instrumented import InstrumentedDriver

from moorage.caches import TTLCache
from moorage.errors import BlobUnknown, ManifestBlobUnknown, Unavailable
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.blobs import StoredBlobs
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.links import Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.sizes import MemorySizes
from moorage.storage.driver import RequestCost
from moorage.testing.builders import image
from moorage.testing.registry_fixtures import content_of
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Driver

NAME, OTHER = RepoName("library/app"), RepoName("team/other")
DATA = b"the bytes of a layer" * 10
DIGEST = Digest.of(DATA)


class Recording(MemorySizes):
    """Records the links that were reported as removed."""

    def __init__(self) -> None:
        super().__init__(10)
        self.links: list[tuple[RepoName, tuple[Digest, ...]]] = []

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        self.links.append((name, tuple(digests)))


class Counting(InstrumentedDriver):
    stats = 0

    async def before(self, call: str) -> None:
        self.stats += call.startswith("stat") and call.endswith("data")


async def put(driver: Driver, digest: Digest = DIGEST, data: bytes = DATA) -> None:
    await driver.write(layout.blob_data(digest), data)
    await driver.write(layout.layer_link(NAME, digest), str(digest).encode())


async def test_the_least_recently_used_goes_first_and_nothing_is_kept_of_none() -> None:
    """`blobdescriptorsize`."""
    digests = [Digest.of(bytes([number])) for number in range(3)]
    sizes = MemorySizes(2)
    for number, digest in enumerate(digests):
        await sizes.put(digest, number)
        await sizes.get(digests[0])
    assert [await sizes.get(digest) for digest in digests] == [0, None, 2]
    await sizes.collecting([digests[0]])
    await sizes.forget(digests[2])
    assert [await sizes.get(digest) for digest in digests] == [None, None, None]
    none = MemorySizes(0)
    await none.put(DIGEST, 5)
    assert await none.get(DIGEST) is None
    await none.close()


async def test_parts_that_share_a_memory_look_once(driver: Driver) -> None:
    """Workers with Redis, or tests with a memory between them."""
    counting, sizes = Counting(driver), MemorySizes(10)
    counting.request_cost = RequestCost.NETWORK  # a file's size is compared once a second by each
    await put(driver)
    gate = CollectionGate(counting)
    for _ in range(2):
        blobs = StoredBlobs(counting, store=BlobStore(counting, sizes=sizes), gate=gate)
        assert (await blobs.stat(NAME, DIGEST)).size == len(DATA)
    assert counting.stats == 1


async def test_a_mount_looks_at_the_bytes_whatever_is_remembered(driver: Driver) -> None:
    """A client that mounts does not upload, so the bytes must be there."""
    sizes = MemorySizes(10)
    blobs = StoredBlobs(driver, store=BlobStore(driver, sizes=sizes))
    await put(driver)
    await blobs.stat(NAME, DIGEST)
    await driver.delete([layout.blob_data(DIGEST)])
    with pytest.raises(BlobUnknown):
        await blobs.mount(OTHER, DIGEST, NAME)
    assert await sizes.get(DIGEST) is None


async def test_a_manifest_whose_bytes_are_missing_makes_the_memory_forget_them(driver: Driver) -> None:
    """Or HEAD would answer 200 for ever, and no client would upload them."""
    sizes, built = MemorySizes(10), image()
    blobs = StoredBlobs(driver, store=BlobStore(driver, sizes=sizes, confirmed=TTLCache(10_000, 3600)))
    for part in built.closure[:-1]:
        await put(driver, part.digest, part.data)
        await blobs.stat(NAME, part.digest)
    layer = built.closure[0].digest
    await driver.delete([layout.blob_data(layer)])
    assert (await blobs.stat(NAME, layer)).size
    manifests = StoredManifests(driver, store=BlobStore(driver, sizes=sizes))
    with pytest.raises(ManifestBlobUnknown):
        await manifests.put(NAME, Tag("t"), built.media_type, built.data)
    with pytest.raises(BlobUnknown):
        await blobs.stat(NAME, layer)


async def test_removed_links_are_reported(driver: Driver) -> None:
    """Blobs with the digest under which their bytes lie (an alias of the reference's), and manifests."""
    sizes, built = Recording(), image()
    alias = Digest.of(DATA, "sha512")
    await driver.write(layout.blob_data(DIGEST), DATA)
    await driver.write(layout.layer_link(NAME, alias), str(DIGEST).encode())
    links = Links(driver, sizes=sizes)
    await StoredBlobs(driver, links=links, delete_enabled=True).delete(NAME, alias)
    for part in built.closure[:-1]:
        await put(driver, part.digest, part.data)
    manifests = StoredManifests(driver, links=links, delete_enabled=True)
    await manifests.put(NAME, Tag("t"), built.media_type, built.data)
    await manifests.delete(NAME, built.digest)
    assert sizes.links == [(NAME, (alias, DIGEST)), (NAME, (built.digest,))]


@pytest.mark.parametrize("size", [3, 5_000])
async def test_a_size_that_is_not_that_of_the_bytes_tears_no_answer(driver: Driver, size: int) -> None:
    """Each way out checks it before the first byte leaves."""
    sizes, confirmed = MemorySizes(10), TTLCache[Digest, int](10_000, 3600)
    blobs = StoredBlobs(driver, store=BlobStore(driver, sizes=sizes, confirmed=confirmed))
    await put(driver)

    async def fetched(start: int | None, *, files: bool = False) -> bytes:
        def select(size: int) -> range | None:
            return None if start is None else range(start, size)

        return await content_of(await blobs.fetch(NAME, DIGEST, select=select, files=files))

    ways = [fetched(None), fetched(0), fetched(4_000)]
    if driver.name == "filesystem":
        ways.append(fetched(0, files=True))
    for way in ways:
        await sizes.put(DIGEST, size)
        confirmed.put(DIGEST, size)
        with pytest.raises(Unavailable):
            await way
        assert await sizes.get(DIGEST) == len(DATA)
    confirmed.put(DIGEST, len(DATA))
    assert await fetched(None) == DATA
