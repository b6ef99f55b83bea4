"""Requests of clients beside a garbage collection: each refusal over HTTP, and writers that are interrupted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest
from structlog.testing import capture_logs
from tests.http.client import NAME, OTHER, Client, codes
from tests.registry.collection_steps import Clock, Run, Sleep
from tests.registry.instrumented import InstrumentedDriver

from moorage.config.model import Settings
from moorage.http.app import create_app
from moorage.registry import layout
from moorage.registry.collection_state import RENEW_S, ListEntry
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.storage.driver import RequestCost, StorageExhausted, StorageReadOnly, StorageUnavailable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import blob, image, index
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import RepoName, Tag
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import httpx

    from moorage.registry.collection_state import StateName
    from moorage.storage.driver import Driver, Key, StorageError
    from moorage.testing.builders import Built

LAYER: Final = blob(size=200, seed=1)
BUILT: Final = image(LAYER, seed=1)
OLD: Final = image(seed=2)
REPO, TAG = RepoName(NAME), Tag("v1")


class Interrupted(InstrumentedDriver):
    """Takes a step of a collector before or after the first call that begins with a prefix, or fails it."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.request_cost = inner.request_cost
        self.first: dict[str, Callable[[], Awaitable[object]]] = {}
        self.then: dict[str, Callable[[], Awaitable[object]]] = {}
        self.fails: dict[str, StorageError] = {}
        self.calls: list[str] = []

    async def _take(self, steps: dict[str, Callable[[], Awaitable[object]]], call: str) -> None:
        for prefix in [prefix for prefix in steps if call.startswith(prefix)]:
            await steps.pop(prefix)()

    async def before(self, call: str) -> None:
        self.calls.append(call)
        for prefix, error in self.fails.items():
            if call.startswith(prefix):
                raise error
        await self._take(self.first, call)

    async def after_change(self, call: str) -> None:
        await self._take(self.then, call)


class House:
    """A registry over a store, its clock, and a collector."""

    def __init__(self, inner: Driver) -> None:
        self.inner = inner
        self.driver = Interrupted(inner)
        self.clock = Clock()
        self.sleep = Sleep(self.clock)
        self.run = Run(inner)
        self.client = self.process(self.driver)

    def process(self, driver: Driver) -> Client:
        """Return a client of one more process."""
        options = StoredOptions(redirects=False)
        registry = StoredRegistry(driver, b"secret", options, clock=self.clock, sleep=self.sleep)
        return Client(create_app(registry, http_options(Settings())))

    async def head(self, part: Built, name: str = NAME) -> int:
        return (await self.client.send("HEAD", f"/v2/{name}/blobs/{part.digest}")).status_code

    async def mount(self) -> httpx.Response:
        return await self.client.start_upload(OTHER, f"?mount={LAYER.digest}&from={NAME}")

    async def upload(self, part: Built = LAYER) -> httpx.Response:
        return await self.client.finish(await self.client.location(NAME), part.digest, part.data)

    async def collect(self) -> None:
        """Remove the bytes of the layer in a whole run, and let an hour pass."""
        await self.run.whole(LAYER.digest)
        self.clock.now += 3600

    def pass_time(self) -> None:
        self.clock.now += RENEW_S

    async def holds(self, key: Key) -> bool:
        return await self.inner.find(key) is not None


def _inner(kind: str, path: Path) -> Driver:
    if kind == "memory":
        return MemoryDriver()
    if kind == "filesystem":
        return FilesystemDriver(path / "store")
    store = MemoryObjects(Bucket())
    return ObjectDriver(store, ChunkLog(store, tail_bytes=0))


@pytest.fixture(params=["memory", "filesystem", "objects"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A repository with an image under a tag, and the blobs of another image."""
    inner = _inner(request.param, tmp_path)
    found = House(inner)
    await found.client.push(OLD, TAG)
    for part in BUILT.blobs:
        await found.client.push_blob(part)
    found.pass_time()
    found.driver.calls.clear()
    yield found
    await inner.close()


async def tagged(house: House) -> str:
    answer = await house.client.manifest(TAG)
    assert answer.status_code == 200
    return answer.headers["docker-content-digest"]


async def whole(house: House, built: Built) -> None:
    """A new process serves all of the image."""
    client = house.process(house.inner)
    for part in built.closure:
        answer = await (client.manifest(part) if part.is_manifest else client.blob(part))
        assert (answer.status_code, answer.content) == (200, part.data)


async def refused_until_pushed_again(house: House) -> None:
    """The push of a manifest whose layer is gone moves no tag; one of all its parts does."""
    refused = await house.client.put(TAG, BUILT)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    assert await tagged(house) == str(OLD.digest)
    await house.client.push(BUILT, TAG)
    assert await tagged(house) == str(BUILT.digest)
    await whole(house, BUILT)


# Reads.


async def test_head_of_a_condemned_blob_rescues_it(house: House) -> None:
    """The client does not send its bytes then."""
    await house.run.start()
    await house.run.condemn(LAYER.digest)
    assert await house.head(LAYER) == 200
    assert await house.run.rescued(LAYER.digest)


async def test_head_of_a_doomed_blob_is_404_and_get_has_the_bytes_that_are_there(house: House) -> None:
    """The client sends them; one that pulls needs nothing but them."""
    await house.run.start()
    await house.run.doom(LAYER.digest)
    assert await house.head(LAYER) == 404
    assert (await house.client.blob(LAYER)).content == LAYER.data
    assert not await house.run.rescued(LAYER.digest)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_manifests_are_rescued_and_served_while_they_are_there(house: House, method: str) -> None:
    """A tag may be alive although its manifest is doomed, until the collector has looked once more.

    A HEAD by digest comes from a client that would not push the manifest.
    """
    await house.run.start()
    await house.run.condemn(OLD.digest)
    for reference in (OLD, TAG):
        assert (await house.client.manifest(reference, method=method)).status_code == 200
    assert await house.run.rescued(OLD.digest)
    await house.run.doom(OLD.digest)
    house.clock.now += 1
    assert (await house.client.manifest(TAG, method=method)).status_code == 200
    assert (await house.client.manifest(OLD, method=method)).status_code == (404 if method == "HEAD" else 200)
    await house.inner.delete([layout.revision_link(REPO, OLD.digest)])
    for reference in (OLD, TAG):
        answer = await house.client.manifest(reference, method=method)
        assert answer.status_code == 404
        assert method == "HEAD" or codes(answer) == ["MANIFEST_UNKNOWN"]


async def test_old_docker_gets_an_image_out_of_a_list_while_it_is_there(house: House) -> None:
    """It pulls, so it needs nothing but the bytes."""
    images = index(image(seed=4, docker=True), docker=True)
    await house.client.push(images, TAG)
    await house.run.start()
    await house.run.doom(images.parts[0].digest)
    house.pass_time()
    for status in (200, 404):
        answer = await house.client.manifest(TAG, accept=images.parts[0].media_type)
        assert answer.status_code == status
        await house.inner.delete([layout.revision_link(REPO, images.parts[0].digest)])


@pytest.mark.parametrize("lost", ["bytes", "link"])
async def test_a_head_that_a_whole_run_interrupts_is_404(house: House, lost: str) -> None:
    """Stopped between the look at the content and the rescue, which comes too late."""
    for part, link in (
        (LAYER, layout.layer_link(REPO, LAYER.digest)),
        (OLD, layout.revision_link(REPO, OLD.digest)),
    ):
        await house.run.start()
        condemned = await house.run.condemn(part.digest)
        house.pass_time()

        async def collect(part: Built = part, link: Key = link, condemned: StateName = condemned) -> None:
            await house.inner.delete([layout.blob_data(part.digest) if lost == "bytes" else link])
            await house.run.end(condemned)

        house.driver.first[f"write {layout.rescued(part.digest)}"] = collect
        answer = await (house.client.manifest(part, method="HEAD") if part.is_manifest else house.client.send(
            "HEAD", f"/v2/{NAME}/blobs/{part.digest}"
        ))  # fmt: skip
        assert answer.status_code == 404
        assert await house.run.rescued(part.digest)
        await house.inner.delete([layout.rescued(part.digest)])


async def test_a_head_during_a_run_is_answered_from_the_store(house: House) -> None:
    """A GET has remembered the size, and the bytes go before the rescue is recorded; the run goes on."""
    await house.run.start()
    condemned = await house.run.condemn(LAYER.digest)
    house.pass_time()
    await house.head(BUILT.blobs[1])
    assert (await house.client.blob(LAYER)).status_code == 200

    async def collect() -> None:
        await house.run.remove(LAYER.digest)
        await house.inner.delete([layout.collection(str(condemned))])

    house.driver.first[f"write {layout.rescued(LAYER.digest)}"] = collect
    assert await house.head(LAYER) == 404


async def test_content_that_one_repository_drops_is_served_and_pushed_in_another(house: House) -> None:
    """Its layer is a link that nothing needs in the first, and part of an image in the second."""
    await house.client.push(BUILT, name=OTHER)
    await house.run.start()
    doomed = [ListEntry(part.digest, NAME) for part in (BUILT, *BUILT.blobs)]
    await house.run.condemn(*doomed)
    await house.run.doom(*doomed)
    house.pass_time()
    assert await house.head(LAYER) == 404
    assert await house.head(LAYER, OTHER) == 200
    assert (await house.client.manifest(BUILT, OTHER, method="HEAD")).status_code == 200
    assert (await house.client.put(TAG, BUILT, OTHER)).status_code == 201
    assert (await house.client.put(TAG, BUILT)).status_code == 503
    assert (await house.mount()).status_code == 202, "from the repository whose link goes"
    into = await house.client.start_upload(NAME, f"?mount={LAYER.digest}&from={OTHER}")
    assert into.status_code == 202, "into it"


@pytest.mark.parametrize("error", [StorageExhausted, StorageReadOnly])
async def test_on_a_full_or_read_only_store_condemned_content_is_404_and_no_500(
    house: House, error: type[StorageError]
) -> None:
    """A registry on a full disk still answers; what the collector removes is not promised to anybody."""
    await house.run.start()
    await house.run.condemn(LAYER.digest, OLD.digest)
    house.driver.fails[f"write {layout.COLLECTION}"] = error("injected")
    assert await house.head(LAYER) == 404
    assert (await house.client.manifest(OLD, method="HEAD")).status_code == 404
    assert (await house.client.manifest(TAG)).status_code == 200, "what is there is pulled"
    assert await house.head(BUILT.blobs[1]) == 200, "all that is not condemned is served"
    refused = await house.upload()
    assert (refused.status_code, codes(refused)) == (507, ["UNAVAILABLE"])


async def test_a_state_that_cannot_be_listed_is_503(house: House) -> None:
    """As any failure of the store; a GET of a blob does not look."""
    house.driver.fails[f"children {layout.COLLECTION}"] = StorageUnavailable("injected")
    assert await house.head(LAYER) == 503
    refused = await house.upload()
    assert (refused.status_code, codes(refused)) == (503, ["UNAVAILABLE"])
    assert (await house.client.put("v2", BUILT)).status_code == 503
    assert (await house.client.manifest(TAG)).status_code == 503
    assert (await house.client.blob(LAYER)).status_code == 200
    house.driver.fails.clear()
    assert await house.head(LAYER) == 200


# Mounts.


async def test_a_doomed_blob_is_not_mounted(house: House) -> None:
    """The client uploads it instead."""
    await house.run.start()
    await house.run.doom(LAYER.digest)
    assert (await house.mount()).status_code == 202
    assert not await house.holds(layout.layer_link(RepoName(OTHER), LAYER.digest))


async def test_a_mount_that_a_whole_run_interrupts_is_an_upload(house: House) -> None:
    """Stopped before the link: the link comes, the bytes are gone, and the client sends them."""
    link = layout.layer_link(RepoName(OTHER), LAYER.digest)

    house.driver.first[f"write {link}"] = house.collect
    assert (await house.mount()).status_code == 202
    assert await house.head(LAYER, OTHER) == 404, "nor does the link promise them"
    await house.client.push_blob(LAYER, OTHER)
    assert (await house.client.blob(LAYER, OTHER)).content == LAYER.data


async def test_a_mount_of_a_condemned_blob_rescues_it(house: House) -> None:
    await house.run.start()
    await house.run.condemn(LAYER.digest)
    assert (await house.mount()).status_code == 201
    assert await house.run.rescued(LAYER.digest)


# Uploads.


async def test_an_upload_of_a_doomed_blob_waits_until_the_collector_is_done_with_it(house: House) -> None:
    """Published before, its bytes might be deleted with those that the collector has seen."""
    await house.run.start()
    doomed = await house.run.doom(LAYER.digest)

    async def remove() -> None:
        await house.run.remove(LAYER.digest)
        await house.run.withdraw(doomed)

    house.sleep.steps = [remove]
    assert (await house.upload()).status_code == 201
    assert house.sleep.slept == 1
    assert await house.run.rescued(LAYER.digest)
    assert (await house.process(house.inner).blob(LAYER)).content == LAYER.data


async def test_an_upload_of_a_blob_that_stays_doomed_is_503_and_continues(house: House) -> None:
    """Bounded waiting; the client repeats the closing PUT, with the bytes that it has sent."""
    await house.run.start()
    doomed = await house.run.doom(LAYER.digest)
    started = await house.client.patch(await house.client.location(NAME), LAYER.data)
    location = started.headers["location"]
    refused = await house.client.finish(location, LAYER.digest)
    assert (refused.status_code, codes(refused)) == (503, ["UNAVAILABLE"])
    assert refused.headers["retry-after"] == "10"
    await house.run.remove(LAYER.digest)
    await house.run.withdraw(doomed)
    assert (await house.client.finish(location, LAYER.digest)).status_code == 201
    assert (await house.process(house.inner).blob(LAYER)).content == LAYER.data


async def test_an_upload_that_a_whole_run_interrupts_is_never_a_201_of_lost_bytes(house: House) -> None:
    """Stopped between the bytes and the link.  A store that keeps the bytes of the upload publishes them again."""
    link = layout.layer_link(REPO, LAYER.digest)

    house.driver.first[f"write {link}"] = house.collect
    answer = await house.upload()
    if answer.status_code == 201:
        assert house.driver.request_cost is RequestCost.NETWORK
    else:
        assert (answer.status_code, codes(answer)) == (503, ["UNAVAILABLE"])
        assert await house.head(LAYER) == 404
        assert (await house.upload()).status_code == 201
    assert (await house.process(house.inner).blob(LAYER)).content == LAYER.data


async def test_a_blob_that_is_condemned_and_uploaded_is_rescued(house: House) -> None:
    """A bucket keeps the old object of the same size."""
    await house.run.start()
    await house.run.condemn(LAYER.digest)
    assert (await house.upload()).status_code == 201
    assert await house.run.rescued(LAYER.digest)


# Manifests.


async def test_a_manifest_rescues_what_it_names_and_itself(house: House) -> None:
    """A layer that was pushed yesterday, and an image that was pushed by its digest and gets its tag today."""
    await house.client.push(BUILT)
    await house.run.start()
    await house.run.condemn(*(part.digest for part in BUILT.closure))
    house.pass_time()
    assert (await house.client.put(TAG, BUILT)).status_code == 201
    for part in BUILT.closure:
        assert await house.run.rescued(part.digest)


async def test_an_index_rescues_its_children(house: House) -> None:
    await house.client.push(BUILT)
    parent = index(BUILT)
    await house.run.start()
    await house.run.condemn(BUILT.digest)
    house.pass_time()
    assert (await house.client.put(TAG, parent)).status_code == 201
    assert await house.run.rescued(BUILT.digest)


async def test_a_manifest_whose_layer_is_removed_is_refused_and_moves_no_tag(house: House) -> None:
    """The client pushes the layer again."""
    await house.run.start()
    doomed = await house.run.doom(LAYER.digest)

    async def remove() -> None:
        await house.run.remove(LAYER.digest)
        await house.run.withdraw(doomed)

    house.sleep.steps = [remove]
    refused = await house.client.put(TAG, BUILT)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    assert str(LAYER.digest) in refused.text
    assert await tagged(house) == str(OLD.digest)
    await house.client.push(BUILT, TAG)
    await whole(house, BUILT)


async def test_a_manifest_whose_layer_is_withdrawn_is_taken(house: House) -> None:
    await house.run.start()
    doomed = await house.run.doom(LAYER.digest)
    house.sleep.steps = [lambda: house.run.withdraw(doomed)]
    assert (await house.client.put(TAG, BUILT)).status_code == 201
    await whole(house, BUILT)


async def test_a_manifest_whose_layer_stays_doomed_is_503(house: House) -> None:
    await house.run.start()
    await house.run.doom(LAYER.digest)
    refused = await house.client.put(TAG, BUILT)
    assert (refused.status_code, codes(refused)) == (503, ["UNAVAILABLE"])
    assert refused.headers["retry-after"] == "10"
    assert await tagged(house) == str(OLD.digest)


async def test_a_layer_that_is_doomed_between_the_check_and_the_tag_moves_no_tag(house: House) -> None:
    """Paused after the revision link, while the collector dooms; it withdraws, as it finds the link."""
    await house.run.start()
    seen: list[str] = []
    revision = layout.revision_link(REPO, BUILT.digest)

    async def doom() -> None:
        doomed = await house.run.doom(LAYER.digest)

        async def withdraw() -> None:
            seen.append(await tagged(house))
            await house.run.withdraw(doomed)

        house.sleep.steps = [withdraw]

    house.driver.then[f"write {revision}"] = doom
    assert (await house.client.put(TAG, BUILT)).status_code == 201
    assert seen == [str(OLD.digest)]
    await whole(house, BUILT)
    assert await tagged(house) == str(BUILT.digest)


@pytest.mark.parametrize("lost", ["bytes", "link"])
async def test_a_push_that_a_whole_run_interrupts_is_refused_and_moves_no_tag(house: House, lost: str) -> None:
    """SIGSTOP for an hour, after the layers were looked up and before the revision link."""
    await house.run.start()  # else a local store writes links and tag in one step
    house.pass_time()

    async def collect() -> None:
        doomed = await house.run.doom(LAYER.digest)
        if lost == "bytes":
            await house.run.remove(LAYER.digest)
        else:  # another repository needs the bytes
            await house.inner.delete([layout.layer_link(REPO, LAYER.digest)])
        await house.run.end(doomed)
        house.clock.now += 3600

    house.driver.first[f"write {layout.blob_data(BUILT.digest)}"] = collect
    await refused_until_pushed_again(house)


@pytest.mark.parametrize("at", [layout.blob_data(BUILT.digest), layout.tag_link(REPO, TAG)], ids=["bytes", "tag"])
async def test_a_push_that_begins_before_a_run_and_ends_after_it_moves_no_tag(house: House, at: Key) -> None:
    """Also where the steps of the driver are one, and where the process is stopped after the confirmation."""
    house.driver.first[f"write {at}"] = house.collect
    await refused_until_pushed_again(house)


async def test_a_tag_that_came_back_to_a_manifest_is_taken_back_to_it(house: House) -> None:
    """The history cannot know: its entry of that manifest is older than that of the one in between."""
    await house.client.push(image(seed=3), TAG)
    await house.client.push(OLD, TAG)
    house.pass_time()

    house.driver.first[f"write {layout.tag_link(REPO, TAG)}"] = house.collect
    refused = await house.client.put(TAG, BUILT)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    assert await tagged(house) == str(OLD.digest)


@pytest.mark.parametrize("step", ["one", "several"])
async def test_a_new_tag_of_a_refused_push_is_removed(house: House, step: str) -> None:
    """It never existed."""
    tag = Tag("v2")
    if step == "several":
        await house.client.push(BUILT)
        house.pass_time()

    house.driver.first[f"write {layout.tag_link(REPO, tag)}"] = house.collect
    refused = await house.client.put(tag, BUILT)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])
    assert not await house.holds(layout.tag_link(REPO, tag))
    assert (await house.client.manifest(tag)).status_code == 404


async def test_a_tag_whose_manifest_another_push_completes_meanwhile_stays(house: House) -> None:
    """The other push has found the tag set, and has got a 201."""
    link = layout.tag_link(REPO, TAG)

    async def complete() -> None:
        await house.inner.write(layout.blob_data(LAYER.digest), LAYER.data)

    async def collect() -> None:
        await house.collect()
        house.driver.then[f"write {link}"] = next_time

    async def next_time() -> None:
        house.driver.then[f"write {link}"] = complete

    house.driver.first[f"write {layout.blob_data(BUILT.digest)}"] = collect
    if house.driver.request_cost is RequestCost.NETWORK:
        house.driver.first = {f"write {link}": collect}
    assert (await house.client.put(TAG, BUILT)).status_code == 400
    assert await tagged(house) == str(BUILT.digest)
    await whole(house, BUILT)


async def test_a_tag_that_cannot_be_taken_back_is_logged(house: House) -> None:
    """The store fails in that moment; the client gets its refusal all the same."""
    link = layout.tag_link(REPO, TAG)

    async def collect() -> None:
        await house.collect()
        house.driver.then[f"write {link}"] = fail

    async def fail() -> None:
        house.driver.fails[f"write {link}"] = StorageUnavailable("injected")

    house.driver.first[f"write {link}"] = collect
    with capture_logs() as logs:
        refused = await house.client.put(TAG, BUILT)
    assert codes(refused) == ["MANIFEST_BLOB_UNKNOWN"]
    assert [entry["cause"] for entry in logs if "damaged" in entry["event"]] == ["injected"]


async def test_a_manifest_that_this_process_wrote_is_written_again_when_it_was_removed(house: House) -> None:
    """Its memory of durable writes must not stand for an object that a collector has deleted."""
    await house.client.push(BUILT)
    revision = layout.revision_link(REPO, BUILT.digest)
    await house.run.start()
    house.pass_time()
    doomed = await house.run.doom(BUILT.digest)

    async def remove() -> None:
        await house.inner.delete([revision])
        await house.run.remove(BUILT.digest)
        await house.run.withdraw(doomed)

    house.sleep.steps = [remove]
    assert (await house.client.put(TAG, BUILT)).status_code == 201
    await whole(house, BUILT)


async def test_a_manifest_that_a_run_removes_while_it_gets_its_tag_is_stored_again(house: House) -> None:
    """A run that deletes manifests without a tag has read the tags before this one came."""
    await house.client.push(BUILT)
    await house.run.start()
    house.pass_time()

    async def remove() -> None:
        await house.inner.delete([layout.revision_link(REPO, BUILT.digest)])
        await house.run.remove(BUILT.digest)

    house.driver.first[f"write {layout.tag_link(REPO, TAG)}"] = remove
    answer = await house.client.send(
        "PUT", f"/v2/{NAME}/manifests/{TAG}", BUILT.data,
        {"content-type": BUILT.media_type, "if-match": f'"{OLD.digest}"'},
    )  # fmt: skip
    assert answer.status_code == 201, "the condition held once"
    assert await tagged(house) == str(BUILT.digest)
    await whole(house, BUILT)


async def test_a_manifest_whose_content_is_lost_every_time_is_503(house: House) -> None:
    """No endless loop."""
    await house.run.start()
    house.pass_time()
    tries = 0

    async def remove() -> None:
        nonlocal tries
        tries += 1
        await house.run.remove(BUILT.digest)
        house.driver.first[f"stat {layout.blob_data(BUILT.digest)}"] = remove

    house.driver.first[f"stat {layout.blob_data(BUILT.digest)}"] = remove
    refused = await house.client.put(TAG, BUILT)
    assert (refused.status_code, codes(refused)) == (503, ["UNAVAILABLE"])
    assert tries == 3
    assert await tagged(house) == str(OLD.digest)


# Idle.


async def test_while_nothing_is_collected_the_state_costs_no_call(house: House) -> None:
    """HEAD, GET, mount, upload and push list it once, and confirm from memory."""
    await house.head(LAYER)
    listing = f"children {layout.COLLECTION}"
    assert house.driver.calls.count(listing) == 1
    house.driver.calls.clear()
    assert await house.head(LAYER) == 200
    assert (await house.mount()).status_code == 201
    assert (await house.upload()).status_code == 201
    assert (await house.client.put(TAG, BUILT)).status_code == 201
    assert (await house.client.manifest(TAG)).status_code == 200
    assert not [call for call in house.driver.calls if str(layout.COLLECTION) in call]


async def test_requests_at_the_same_time_share_the_listing(house: House) -> None:
    await asyncio.gather(*(house.head(LAYER) for _ in range(50)))
    assert house.driver.calls.count(f"children {layout.COLLECTION}") == 1
