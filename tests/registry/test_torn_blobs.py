"""A blob whose bytes are not those of its digest is found when a client pushes, and the push repairs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.copy.worlds import opened
from tests.http.client import Client, codes, detail
from tests.registry.images import everything
from tests.registry.instrumented import InstrumentedDriver

from moorage.caches import TTLCache
from moorage.config.model import Settings
from moorage.config.sections.storage import Cache, Redirect, Storage
from moorage.errors import BlobUnknown, ManifestBlobUnknown, ManifestInvalid
from moorage.http.app import create_app
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore, Purpose
from moorage.registry.blobs import StoredBlobs
from moorage.registry.links import Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.sizes import MemorySizes
from moorage.registry.torn_blobs import TornBlobs, is_empty_in_error
from moorage.registry.uploads import StoredUploads
from moorage.storage.driver import RequestCost, StorageExhausted
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob, image
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.testing.registry_fixtures import content_of
from moorage.types import Digest, RepoName, Tag
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import httpx

    from moorage.storage.driver import Driver, Key, Reader

APP, OTHER = RepoName("team/app"), RepoName("team/other")
LAYER = blob(size=100_000, seed=3)
BUILT = image(LAYER, seed=3)
CONFIG = BUILT.blobs[0] if BUILT.blobs[0].digest != LAYER.digest else BUILT.blobs[1]
KEY, LINK = layout.blob_data(LAYER.digest), layout.layer_link(APP, LAYER.digest)


_SETTINGS = Settings(storage=Storage(redirect=Redirect(disable=True), cache=Cache(links=0)))
"""Without a memory of links a refusal waits for no other process."""


def serving(driver: Driver) -> Client:
    """A process that has just been started."""
    return Client(create_app(make_registry(driver, _SETTINGS, b"secret"), http_options(_SETTINGS)))


def remembering(driver: Driver) -> Client:
    """A process that remembers sizes."""
    cache = Cache(links=0, blobdescriptor="inmemory")
    settings = Settings(storage=Storage(redirect=Redirect(disable=True), cache=cache))
    return Client(create_app(make_registry(driver, settings, b"secret"), http_options(settings)))


async def head(client: Client) -> httpx.Response:
    return await client.send("HEAD", f"/v2/{APP}/blobs/{LAYER.digest}")


@pytest.fixture(params=["memory", "filesystem", "objects", pytest.param("s3", marks=pytest.mark.slow)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """The blobs of an image, in `team/app`."""
    async with opened(request.param, tmp_path / "store") as driver:
        for part in BUILT.blobs:
            await serving(driver).push_blob(part, APP)
        yield driver


async def test_a_blob_of_no_bytes_is_unknown_until_it_is_pushed_again(store: Driver) -> None:
    """HEAD 200 makes clients leave it out for ever: what a crash of another registry left is never repaired."""
    await store.write(KEY, b"")
    for method in ("HEAD", "GET"):
        answer = await serving(store).send(method, f"/v2/{APP}/blobs/{LAYER.digest}")
        assert answer.status_code == 404
        assert method == "HEAD" or codes(answer) == ["BLOB_UNKNOWN"]
    mount = await serving(store).start_upload(OTHER, f"?mount={LAYER.digest}&from={APP}")
    assert mount.status_code == 202, "an upload begins instead"
    refused = await serving(store).put("v1", BUILT, APP)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    client = serving(store)
    await client.push(BUILT, "v1", name=APP)
    assert (await client.blob(LAYER, APP)).content == LAYER.data


async def test_the_blob_of_no_bytes_is_what_it_should_be(store: Driver) -> None:
    """An empty layer is legal; so is its descriptor of size 0."""
    nothing = blob(b"")
    built = image(nothing, seed=9)
    client = serving(store)
    await client.push(built, "empty", name=APP)
    assert (await client.blob(nothing, APP)).content == b""
    assert not is_empty_in_error(Digest.of(b"", "sha512"), 0)
    assert is_empty_in_error(Digest.of(b"x", "sha512"), 0)


@pytest.mark.parametrize(
    "data", [LAYER.data[:-1], LAYER.data + b"!", LAYER.data[:5]], ids=["cut", "longer", "five"]
)
async def test_a_torn_layer_is_found_by_the_push_and_repaired_by_the_next(store: Driver, data: bytes) -> None:
    """A read cannot distinguish a truncated blob from a whole one; the descriptor can."""
    await store.write(KEY, data)
    with capture_logs() as logs:
        refused = await serving(store).put("v1", BUILT, APP)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
        "a blob is torn and counts as missing; pushing it again repairs it"
    ]
    # Any process, since it no longer finds the link.
    assert (await serving(store).blob(LAYER, APP)).status_code == 404
    assert (await store.read(KEY)).data == data, "no bytes are removed"
    client = serving(store)
    await client.push(BUILT, "v1", name=APP)
    assert (await client.blob(LAYER, APP)).content == LAYER.data


async def test_an_upload_replaces_wrong_bytes_of_the_right_length(store: Driver) -> None:
    """It had just proven the right ones, and threw them away; no push healed what a disk had changed."""
    await store.write(KEY, b"evil" + LAYER.data[4:])
    client = serving(store)
    await client.push_blob(LAYER, APP)
    assert (await client.blob(LAYER, APP)).content == LAYER.data


async def test_the_process_that_found_a_torn_layer_offers_it_nowhere(store: Driver) -> None:
    """Docker mounts a layer from another repository instead of pushing it, and would be refused for ever."""
    await serving(store).push_blob(LAYER, OTHER)
    client = serving(store)
    await store.write(KEY, LAYER.data[:-1])
    assert (await client.put("v1", BUILT, APP)).status_code == 400
    assert (await client.blob(LAYER, OTHER)).status_code == 404
    assert (await client.start_upload(APP, f"?mount={LAYER.digest}&from={OTHER}")).status_code == 202
    await client.push_blob(LAYER, APP)
    assert (await client.blob(LAYER, OTHER)).content == LAYER.data


async def test_no_process_mounts_a_layer_that_another_found_to_be_torn(store: Driver) -> None:
    """With several workers, a client that mounts at one and is refused by the other would never get through."""
    await serving(store).push_blob(LAYER, OTHER)
    await store.write(KEY, LAYER.data[:-1])
    assert (await serving(store).put("v1", BUILT, APP)).status_code == 400
    mount = f"?mount={LAYER.digest}&from={OTHER}"
    assert (await serving(store).start_upload(APP, mount)).status_code == 202
    await serving(store).push_blob(LAYER, APP)
    assert (await serving(store).start_upload(RepoName("third"), mount)).status_code == 201, (
        "the mark is an old one"
    )
    assert (await serving(store).put("v1", BUILT, APP)).status_code == 201


async def test_a_mark_that_holds_no_size_counts_for_nothing(store: Driver) -> None:
    await store.write(layout.torn_mark(LAYER.digest), b"x" * 100)
    mount = f"?mount={LAYER.digest}&from={APP}"
    assert (await serving(store).start_upload(OTHER, mount)).status_code == 201
    await store.write(layout.torn_mark(LAYER.digest), b"")
    assert (await serving(store).start_upload(RepoName("third"), mount)).status_code == 201


async def test_a_descriptor_with_a_wrong_size_is_refused_and_harms_nothing(store: Driver) -> None:
    """The bytes are right, so the manifest is not; other images still use the layer."""
    await serving(store).push(BUILT, "v1", name=APP)
    wrong = image(seed=4, extra={"layers": [{**LAYER.entry, "size": LAYER.size + 1}]})
    client = serving(store)
    for part in wrong.blobs:
        await client.push_blob(part, APP)
    refused = await client.put("v2", wrong, APP)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_INVALID"])
    assert f"has size {LAYER.size + 1}; the blob has {LAYER.size} bytes" in str(detail(refused)) + refused.text
    assert (await client.manifest("v2", APP)).status_code == 404
    assert (await client.blob(LAYER, APP)).content == LAYER.data


async def test_bytes_are_read_once_in_a_process(store: Driver) -> None:
    """A client that pushes wrong descriptors of a 10 GB layer must not make the registry read it each time."""

    class Reading(InstrumentedDriver):
        opened = 0

        def open(
            self, key: Key, *, start: int = 0, stop: int | None = None
        ) -> AbstractAsyncContextManager[Reader]:
            self.opened += 1
            return super().open(key, start=start, stop=stop)

    wrong = image(seed=4, extra={"layers": [{**LAYER.entry, "size": 7}]})
    reading = Reading(store)
    manifests = StoredManifests(reading)
    for part in wrong.blobs:
        await serving(store).push_blob(part, APP)
    puts = [manifests.put(APP, Tag(f"v{number}"), wrong.media_type, wrong.data) for number in range(5)]
    for result in await asyncio.gather(*puts, return_exceptions=True):
        assert isinstance(result, ManifestInvalid)
    assert reading.opened == 1
    await store.write(KEY, LAYER.data[:7])
    with pytest.raises(ManifestBlobUnknown):
        await StoredManifests(reading).put(APP, BUILT.digest, BUILT.media_type, BUILT.data)


async def test_an_upload_that_ends_beside_the_refusal_keeps_its_link(store: Driver) -> None:
    """Its client got 201: the blob is there, in this repository."""

    class Racing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call == f"delete {LINK}":
                await serving(store).push_blob(LAYER, APP)

    await store.write(KEY, LAYER.data[:-1])
    pushed = await StoredManifests(Racing(store)).put(APP, Tag("v1"), BUILT.media_type, BUILT.data)
    assert pushed.digest == BUILT.digest
    assert (await serving(store).blob(LAYER, APP)).content == LAYER.data


async def test_the_refusal_waits_until_no_node_remembers_the_link() -> None:
    """Else the client that retries at once gets from another node that the torn layer is there."""
    driver, slept = ObjectDriver.with_chunk_log(MemoryObjects(Bucket())), []

    async def sleep(seconds: float) -> None:
        assert LINK not in await everything(driver)
        slept.append(seconds)

    for part in BUILT.blobs:
        await serving(driver).push_blob(part, APP)
    await driver.write(KEY, LAYER.data[:-1])
    manifests = StoredManifests(driver, links=Links(driver, lasts_s=2, sleep=sleep))
    with pytest.raises(ManifestBlobUnknown):
        await manifests.put(APP, Tag("v1"), BUILT.media_type, BUILT.data)
    assert [seconds > 2 for seconds in slept] == [True]


@pytest.mark.parametrize("data", [LAYER.data[:50_000], LAYER.data + b"!"], ids=["cut", "longer"])
async def test_a_size_that_changed_is_never_served(store: Driver, data: bytes) -> None:
    """One 503 for each worker, and then 200 with half of the layer for ever."""
    workers = [remembering(store) for _ in range(2)]
    for client in workers:
        assert (await head(client)).status_code == 200
    await store.write(KEY, data)
    with capture_logs() as logs:
        for client in workers * 2:
            answer = await client.blob(LAYER, APP)
            assert (answer.status_code, codes(answer)) == (404, ["BLOB_UNKNOWN"])
            assert (await head(client)).status_code == 404
    assert [entry["log_level"] for entry in logs].count("error") == 2, "each worker reads it once"
    if store.request_cost is RequestCost.LOCAL:  # one that was started later finds the mark
        assert (await head(remembering(store))).status_code == 404
    await workers[0].push_blob(LAYER, APP)
    for client in workers:
        assert (await head(client)).headers["content-length"] == str(LAYER.size)
        assert (await client.blob(LAYER, APP)).content == LAYER.data


async def test_head_notices_within_a_second_what_became_of_a_file(store: Driver) -> None:
    """Another worker repairs a torn blob, or a crash empties a whole one: clients push what HEAD does not find."""
    if store.request_cost is RequestCost.NETWORK:
        pytest.skip("in an object store the comparison would be a request")
    now = [0.0]
    await store.write(KEY, LAYER.data[:50_000])
    sizes = MemorySizes(10)
    blobs = StoredBlobs(
        store, store=BlobStore(store, sizes=sizes, confirmed=TTLCache(10_000, 1, clock=lambda: now[0]))
    )
    assert (await blobs.stat(APP, LAYER.digest)).size == 50_000, "its size is not known to any process"
    await serving(store).push_blob(LAYER, APP)
    now[0] = 2
    assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size
    for data in (b"", LAYER.data[:7], None):
        await (store.delete([KEY]) if data is None else store.write(KEY, data))
        now[0] += 0.5
        assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size, "compared a moment ago"
        now[0] += 1
        with pytest.raises(BlobUnknown):
            await blobs.stat(APP, LAYER.digest)
        assert await sizes.get(LAYER.digest) is None
        await serving(store).push_blob(LAYER, APP)
        assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size
        now[0] += 1
        assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size


async def test_a_range_of_a_blob_that_was_cut_is_unknown(store: Driver) -> None:
    """What the client has of it is whole; the rest comes after the next push."""
    client = remembering(store)
    await head(client)
    await store.write(KEY, LAYER.data[:10])
    answer = await client.send("GET", f"/v2/{APP}/blobs/{LAYER.digest}", headers={"range": "bytes=50000-"})
    assert (answer.status_code, codes(answer)) == (404, ["BLOB_UNKNOWN"])


async def test_a_restored_file_needs_no_push(store: Driver) -> None:
    """A pull beside the restoration of a backup must not make the images lose their layers."""
    client = remembering(store)
    await head(client)
    await store.write(KEY, LAYER.data[:-1])
    assert (await client.blob(LAYER, APP)).status_code == 404
    await store.write(KEY, LAYER.data)
    for served in (client, remembering(store)):
        assert (await served.blob(LAYER, APP)).content == LAYER.data


async def test_a_mark_of_the_right_size_does_not_hide_the_repaired_blob(store: Driver) -> None:
    """The torn object had the right length; after the upload the mark fits the whole one."""
    await store.write(layout.torn_mark(LAYER.digest), str(LAYER.size).encode())
    client = serving(store)
    assert (await client.start_upload(OTHER, f"?mount={LAYER.digest}&from={APP}")).status_code == 201
    assert (await client.blob(LAYER, APP)).content == LAYER.data
    assert layout.torn_mark(LAYER.digest) not in await everything(store)


async def test_a_full_disk_does_not_hide_that_a_blob_is_torn(store: Driver) -> None:
    """The mark cannot be written; the client gets 404 and not the torn bytes."""

    class Full(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call.startswith("write"):
                raise StorageExhausted(call)

    await store.write(KEY, LAYER.data[:-1])
    assert await BlobStore(Full(store)).prove(LAYER.digest) is None


async def test_no_memory_keeps_a_torn_blob_alive(store: Driver) -> None:
    """Neither a cached size nor a recent look at the store replaces bytes that are not there."""
    sizes = MemorySizes(10)
    recent: TTLCache[Digest, int] = TTLCache(10_000, 60)
    shared = BlobStore(store, sizes=sizes, recent=recent)
    blobs = StoredBlobs(store, store=shared)
    await sizes.put(LAYER.digest, 0)
    assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size, "another node saw it empty"
    recent.put(LAYER.digest, LAYER.size - 1)
    manifests = StoredManifests(store, store=shared)
    await manifests.put(APP, Tag("v1"), BUILT.media_type, BUILT.data)
    await store.write(KEY, LAYER.data[:-1])
    await sizes.put(LAYER.digest, LAYER.size - 1)
    recent.put(LAYER.digest, LAYER.size - 1)
    with pytest.raises(ManifestBlobUnknown):
        await manifests.put(APP, Tag("v1"), BUILT.media_type, BUILT.data)
    assert await sizes.get(LAYER.digest) is None
    await store.write(LINK, str(LAYER.digest).encode())
    await sizes.put(LAYER.digest, LAYER.size - 1)
    with pytest.raises(BlobUnknown):
        await blobs.stat(APP, LAYER.digest)


async def test_an_upload_replaces_the_size_of_a_torn_blob(store: Driver) -> None:
    """A remembered wrong length would fail the first pull after the repair."""
    sizes = MemorySizes(10)
    await store.write(KEY, LAYER.data[:-1])
    shared = BlobStore(store, sizes=sizes)
    blobs = StoredBlobs(store, store=shared)
    assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size - 1
    uploads = StoredUploads(store, b"secret", store=shared)
    status = await uploads.start(APP)
    async with uploads.extend(APP, status.uuid, status.state) as part:
        await part.write(LAYER.data)
        await part.finish(LAYER.digest)
    uploads.close()
    assert (await blobs.stat(APP, LAYER.digest)).size == LAYER.size
    assert await content_of(await blobs.fetch(APP, LAYER.digest, redirect=False)) == LAYER.data


async def test_bytes_written_again_are_judged_again(store: Driver) -> None:
    """An operator restores the blob from a backup, in a running registry."""
    sizes = MemorySizes(10)
    blobs = BlobStore(store, sizes=sizes)
    await store.write(KEY, b"!" * (LAYER.size - 1))
    assert await blobs.prove(LAYER.digest) is None
    assert await blobs.rely(LAYER.digest, Purpose.REFER) is None
    await sizes.put(LAYER.digest, LAYER.size - 1)
    assert await blobs.rely(LAYER.digest) is None, "another process saw the size of the torn object"
    await store.write(KEY, LAYER.data)
    assert await blobs.prove(LAYER.digest) == LAYER.size
    for purpose in Purpose:
        assert await blobs.rely(LAYER.digest, purpose) == LAYER.size
    await store.delete([KEY])
    assert await blobs.prove(LAYER.digest) is None


async def test_an_upload_ends_what_was_known_of_a_torn_blob(store: Driver) -> None:
    """The time of the new object may be that of the torn one, where times have a resolution of a second."""
    torn, stat = TornBlobs(), await store.stat(KEY)
    torn.note(LAYER.digest, stat.size, stat.modified, whole=False)
    assert torn.size_of(LAYER.digest, stat) is None
    assert torn.is_suspect(LAYER.digest, stat.size)
    torn.forget(LAYER.digest)
    assert torn.size_of(LAYER.digest, stat) == LAYER.size
