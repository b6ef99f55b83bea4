"""Blobs: readable through a link only, found again after every change, deleted for one repository."""

from __future__ import annotations

from io import FileIO
from typing import TYPE_CHECKING

import pytest
from tests.registry.instrumented import InstrumentedDriver

from moorage.caches import TTLCache
from moorage.errors import BlobUnknown, Unsupported
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.blobs import StoredBlobs
from moorage.registry.interface import Blob, BlobRedirect, FoundBlob
from moorage.storage.driver import KeyMissing, SignedUrl
from moorage.testing.registry_fixtures import content_of
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from moorage.storage.driver import Driver, Key

NAME, OTHER = RepoName("library/app"), RepoName("team/other")
DATA = b"the bytes of a layer" * 1000
DIGEST = Digest.of(DATA)


@pytest.fixture
async def blobs(driver: Driver) -> StoredBlobs:
    await put(driver, DIGEST, DATA)
    return StoredBlobs(driver, delete_enabled=True)


async def put(driver: Driver, digest: Digest, data: bytes, name: RepoName = NAME) -> None:
    await driver.write(layout.blob_data(digest), data)
    await driver.write(layout.layer_link(name, digest), str(digest).encode())


async def whole(blobs: StoredBlobs, name: RepoName, digest: Digest, part: range | None = None) -> bytes:
    return await content_of(await blobs.fetch(name, digest, select=lambda _: part))


async def test_a_link_without_bytes_is_unknown(driver: Driver, blobs: StoredBlobs) -> None:
    """What a collector or a crash left; the client then pushes it again."""
    absent = Digest.of(b"absent")
    await driver.write(layout.layer_link(NAME, absent), str(absent).encode())
    with pytest.raises(BlobUnknown):
        await blobs.stat(NAME, absent)


@pytest.mark.parametrize("link", [b"", b"sha256:torn", b"\xff\xfe", b"x" * 5000])
async def test_a_torn_link_is_none(driver: Driver, blobs: StoredBlobs, link: bytes) -> None:
    """CNCF Distribution 2.8 wrote links in place, so a crash could leave one."""
    await driver.write(layout.layer_link(NAME, DIGEST), link)
    with pytest.raises(BlobUnknown):
        await blobs.stat(NAME, DIGEST)


async def test_a_sha512_link_of_the_reference_leads_to_its_sha256_blob(driver: Driver, blobs: StoredBlobs) -> None:
    """It keeps the bytes under their sha256 only."""
    digest = Digest.of(DATA, "sha512")
    await driver.write(layout.layer_link(NAME, digest), f"{DIGEST}\n".encode())
    assert await blobs.stat(NAME, digest) == Blob(digest, len(DATA))
    assert await whole(blobs, NAME, digest) == DATA
    with pytest.raises(KeyMissing):
        await driver.stat(layout.blob_data(digest))


async def test_the_size_is_asked_for_once(driver: Driver) -> None:
    """The bytes of a digest never change; the link is read each time, since it may go."""
    calls: list[str] = []

    class Counting(InstrumentedDriver):
        async def before(self, call: str) -> None:
            calls.append(call.partition(" ")[0])

    await put(driver, DIGEST, DATA)
    counting = Counting(driver)
    blobs = StoredBlobs(counting, store=BlobStore(counting, confirmed=TTLCache(10_000, 3600)))
    for _ in range(3):
        await blobs.stat(NAME, DIGEST)
    assert calls == ["children", "read", "stat", "read", "read", "read"], (
        "the state of garbage collection is listed once; the second read is that of the mark of a torn blob"
    )


async def test_a_blob_that_goes_after_it_was_remembered_is_unknown(driver: Driver, blobs: StoredBlobs) -> None:
    """A collector beside us takes bytes; a 200 with a length and nothing after it would follow."""
    confirmed = TTLCache[Digest, int](10_000, 3600)
    blobs = StoredBlobs(driver, store=BlobStore(driver, confirmed=confirmed))
    await blobs.stat(NAME, DIGEST)
    await driver.delete([layout.blob_data(DIGEST)])
    assert (await blobs.stat(NAME, DIGEST)).size == len(DATA), "compared a moment ago"
    with pytest.raises(BlobUnknown):
        await whole(blobs, NAME, DIGEST)
    with pytest.raises(BlobUnknown):
        await whole(blobs, NAME, DIGEST, range(5))
    with pytest.raises(BlobUnknown):
        await blobs.stat(NAME, DIGEST)


async def test_a_file_that_is_gone_is_not_handed_over(driver: Driver, blobs: StoredBlobs) -> None:
    """It is opened before the status line goes out, so that the client gets a 404."""
    found = await blobs.fetch(NAME, DIGEST, select=range, files=True)
    assert isinstance(found, FoundBlob)
    assert (driver.name == "filesystem") == isinstance(found.content, FileIO)
    await driver.delete([layout.blob_data(DIGEST)])
    if isinstance(found.content, FileIO):
        assert await content_of(found) == DATA, "a download that has begun is not cut short by a collector"
    with pytest.raises(BlobUnknown):
        await content_of(await blobs.fetch(NAME, DIGEST, select=range, files=True))


@pytest.mark.parametrize("redirects", [True, False])
async def test_redirects_can_be_switched_off(driver: Driver, *, redirects: bool) -> None:
    """`storage.redirect.disable`: clients that cannot reach the store get the bytes from us."""

    class Signing(InstrumentedDriver):
        signs_urls = True

        async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
            return SignedUrl(f"https://store.example/{key}?{method}&{expires_s}")

    await put(driver, DIGEST, DATA)
    blobs = StoredBlobs(Signing(driver), redirects=redirects)
    expected = BlobRedirect(f"https://store.example/{layout.blob_data(DIGEST)}?GET&1200")
    assert await blobs.fetch(NAME, DIGEST) == (expected if redirects else FoundBlob(len(DATA), None, DATA))
    assert await blobs.fetch(NAME, DIGEST, redirect=False) == FoundBlob(len(DATA), None, DATA)


async def test_a_redirect_asks_for_the_link_alone(driver: Driver) -> None:
    """A pull from a bucket waits for one request per layer; what is not linked here is still unknown."""

    class Remote(InstrumentedDriver):
        signs_urls = True

        def __init__(self, driver: Driver) -> None:
            super().__init__(driver)
            self.requested: list[str] = []

        async def before(self, call: str) -> None:
            self.requested.append(call)

        async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
            return SignedUrl(f"https://store.example/{key}?{method}&{expires_s}")

    await put(driver, DIGEST, DATA)
    remote = Remote(driver)
    found = await StoredBlobs(remote).fetch(NAME, DIGEST)
    assert found == BlobRedirect(f"https://store.example/{layout.blob_data(DIGEST)}?GET&1200")
    assert remote.requested == [f"read {layout.layer_link(NAME, DIGEST)}"]
    with pytest.raises(BlobUnknown):
        await StoredBlobs(remote).fetch(OTHER, DIGEST)


async def test_a_mount_from_anywhere_needs_the_bytes_only(driver: Driver, blobs: StoredBlobs) -> None:
    """The draft's anonymous mount; http/ uses it only where every caller may read everything."""
    await driver.delete([layout.layer_link(NAME, DIGEST)])
    await blobs.mount(OTHER, DIGEST, None)
    assert await whole(blobs, OTHER, DIGEST) == DATA


async def test_what_the_source_does_not_have_cannot_be_mounted(driver: Driver, blobs: StoredBlobs) -> None:
    """Neither what another repository has, nor what only a link is left of."""
    absent = Digest.of(b"absent")
    await driver.write(layout.layer_link(NAME, absent), str(absent).encode())
    for digest, source in ((DIGEST, RepoName("team/third")), (absent, NAME), (absent, None)):
        with pytest.raises(BlobUnknown):
            await blobs.mount(OTHER, digest, source)
        with pytest.raises(BlobUnknown):
            await blobs.stat(OTHER, digest)


async def test_deleting_can_be_switched_off(driver: Driver, blobs: StoredBlobs) -> None:
    """It is by default, as in the reference."""
    with pytest.raises(Unsupported, match=r"storage\.delete\.enabled"):
        await StoredBlobs(driver).delete(NAME, DIGEST)
    assert await whole(blobs, NAME, DIGEST) == DATA
