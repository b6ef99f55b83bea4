"""Leases of links: no request after an acknowledged deletion finds the deleted blob or manifest."""

from __future__ import annotations

import asyncio
from itertools import cycle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.registry.instrumented import InstrumentedDriver
from tests.wire import OCI_MANIFEST, image

from moorage.errors import BlobUnknown, ManifestUnknown
from moorage.registry import layout
from moorage.registry.blobs import StoredBlobs
from moorage.registry.interface import BlobRedirect
from moorage.registry.links import LAYER, Links, write_link
from moorage.registry.manifests import StoredManifests
from moorage.registry.sizes import MemorySizes
from moorage.registry.uploads import StoredUploads
from moorage.storage.driver import READ_LIMIT_BYTES, RequestCost, SignedUrl, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.types import Digest, RepoName, parse_tag

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Sequence

    from moorage.storage.driver import Content, Key

NAME, OTHER = RepoName("some/name"), RepoName("other/name")
DATA = b"a layer"
DIGEST = Digest.of(DATA)
LINK = layout.layer_link(NAME, DIGEST)
CONFIG, TAG = b"{}", parse_tag("v1")


class Far(InstrumentedDriver):
    """A remote store that records its requests."""

    request_cost = RequestCost.NETWORK
    signs_urls = True

    def __init__(self, inner: MemoryDriver | None = None) -> None:
        super().__init__(inner or MemoryDriver())
        self.requests: list[str] = []

    async def before(self, call: str) -> None:
        self.requests.append(call)

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        return SignedUrl(f"https://store.example/{key}?{method}&{expires_s}")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Sleep:
    """Remembers how long; takes no time."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


async def linked(driver: Far) -> None:
    await write_link(driver, LINK, DIGEST)
    driver.requests.clear()


class Unlinked(MemorySizes):
    """Records removals that are reported to the cache that other registries share."""

    def __init__(self) -> None:
        super().__init__(0)
        self.digests: list[Digest] = []

    async def unlinked(self, name: RepoName, digests: Sequence[Digest]) -> None:
        self.digests += digests


async def test_a_removal_is_reported_although_the_work_after_it_fails() -> None:
    """CNCF Distribution, which shares Redis, would serve the deleted blob; a second deletion finds no link."""
    driver, sizes = Far(), Unlinked()
    await linked(driver)

    async def failing() -> bool:
        raise StorageUnavailable("no answer")

    with pytest.raises(StorageUnavailable):
        await Links(driver, sizes=sizes).remove(LAYER, NAME, DIGEST, confirm=failing)
    assert sizes.digests == [DIGEST]


async def test_a_link_is_read_again_when_its_lease_is_over() -> None:
    driver, clock = Far(), Clock()
    await linked(driver)
    links = Links(driver, lasts_s=2, clock=clock)
    for _ in range(3):
        assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
        assert await links.exists_recent(LAYER, NAME, DIGEST)
    assert driver.requests == [f"read {LINK}"]
    clock.now += 1.999
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    clock.now += 0.001
    assert await links.exists_recent(LAYER, NAME, DIGEST)
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST, "a look renews it as a reading does"
    assert driver.requests == [f"read {LINK}", f"stat {LINK}"]
    assert (links.requests, links.hits) == (9, 7)


async def test_the_time_counts_from_before_the_reading() -> None:
    """The answer of a slow store may be outdated when it arrives."""
    clock = Clock()

    class Slow(Far):
        async def before(self, call: str) -> None:
            await super().before(call)
            clock.now += 1.5

    driver = Slow()
    await linked(driver)
    links = Links(driver, lasts_s=2, clock=clock)
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    clock.now += 0.5
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    assert len(driver.requests) == 2


async def test_absence_is_not_remembered() -> None:
    """Another node may push it the next moment."""
    driver = Far()
    links = Links(driver, lasts_s=2, clock=Clock())
    assert await links.recent(LAYER, NAME, DIGEST) is None
    assert not await links.exists_recent(LAYER, NAME, DIGEST)
    await write_link(driver, LINK, DIGEST)
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST


async def test_what_it_wrote_it_has_seen() -> None:
    """The manifest that comes after its layers need not ask for each."""
    driver = Far()
    links = Links(driver, lasts_s=2, clock=Clock())
    await links.set(LAYER, NAME, DIGEST)
    driver.requests.clear()
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    assert driver.requests == []


async def test_a_deletion_is_answered_when_nobody_can_remember_any_more() -> None:
    driver, sleep = Far(), Sleep()
    await linked(driver)
    links = Links(driver, lasts_s=2, clock=Clock(), sleep=sleep)
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    await links.remove(LAYER, NAME, DIGEST)
    assert sleep.slept == [pytest.approx(2.12)]
    assert await links.recent(LAYER, NAME, DIGEST) is None, "here at once"


@pytest.mark.parametrize(("cost", "lasts_s"), [(RequestCost.LOCAL, 2), (RequestCost.NETWORK, 0)])
async def test_nothing_is_remembered_where_it_gains_nothing(*, cost: RequestCost, lasts_s: float) -> None:
    """A local disk, or leases switched off: every link is read, and a deletion is answered at once."""
    driver, sleep = Far(), Sleep()
    driver.request_cost = cost
    await linked(driver)
    links = Links(driver, lasts_s=lasts_s, clock=Clock(), sleep=sleep)
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    assert await links.exists_recent(LAYER, NAME, DIGEST)
    assert await links.recent(LAYER, NAME, DIGEST) == DIGEST
    assert len(driver.requests) == 3
    await links.remove(LAYER, NAME, DIGEST)
    assert sleep.slept == []
    assert await links.recent(LAYER, NAME, DIGEST) is None


class TimeLoop(asyncio.SelectorEventLoop):
    """Time passes when nothing else is left to do, and then at once."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]  # asyncio's own
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def play(story: Coroutine[None, None, None]) -> None:
    loop = TimeLoop()
    try:
        loop.run_until_complete(story)
    finally:
        loop.close()


_SLOW = st.tuples(*[st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.9, 2.5])] * 2)
"""How long a request takes on its way to the store, and back, in seconds."""
_SPEED = st.floats(0.98, 1.02)
_LASTS_S = 1.0


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    deleted_at=st.floats(0.5, 4),
    deleting=_SLOW,
    answers=st.lists(_SLOW, min_size=1, max_size=12),
    speeds=st.tuples(_SPEED, _SPEED, _SPEED),
)
def test_no_question_after_the_acknowledgement_finds_what_was_deleted(
    deleted_at: float,
    deleting: tuple[float, float],
    answers: Sequence[tuple[float, float]],
    speeds: tuple[float, float, float],
) -> None:
    """The promise, with stores that answer late and clocks that run unevenly."""
    play(_story(deleted_at, deleting, answers, speeds))


async def _story(
    deleted_at: float,
    deleting: tuple[float, float],
    answers: Sequence[tuple[float, float]],
    speeds: tuple[float, float, float],
) -> None:
    """Two processes read the link all the time; a third one deletes it."""
    loop, inner, late = asyncio.get_running_loop(), MemoryDriver(), cycle(answers)
    await write_link(inner, LINK, DIGEST)

    class Late(InstrumentedDriver):
        request_cost = RequestCost.NETWORK

        async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
            there, back = next(late)
            await asyncio.sleep(there)
            try:
                return await super().read(key, limit=limit)
            finally:
                await asyncio.sleep(back)

        async def delete(self, keys: Collection[Key]) -> None:
            await asyncio.sleep(deleting[0])
            await super().delete(keys)
            await asyncio.sleep(deleting[1])

    def process(number: int) -> Links:
        speed = speeds[number]
        return Links(
            Late(inner),
            lasts_s=_LASTS_S,
            clock=lambda: 1000.0 * number + loop.time() * speed,
            sleep=lambda seconds: asyncio.sleep(seconds / speed),
        )

    processes = [process(number) for number in range(3)]
    found: list[tuple[float, Digest | None]] = []

    async def delete() -> float:
        await asyncio.sleep(deleted_at)
        await processes[2].remove(LAYER, NAME, DIGEST)
        return loop.time()

    async def ask(at: float, number: int) -> None:
        await asyncio.sleep(at)
        began = loop.time()
        found.append((began, await processes[number].recent(LAYER, NAME, DIGEST)))

    # As long as the slowest deletion may take, and a little.
    asks = [ask(0.04 * turn, turn % 2) for turn in range(300)]
    acknowledged, _ = await asyncio.gather(delete(), asyncio.gather(*asks))
    assert any(began > acknowledged for began, _ in found)
    for began, digest in found:
        assert digest is None or began < acknowledged, f"requested at {began}, acknowledged at {acknowledged}"


async def _pushed(driver: Far, links: Links | None = None) -> Digest:
    uploads = StoredUploads(driver, b"secret", links=links)
    for data in (DATA, CONFIG):
        status = await uploads.start(NAME)
        async with uploads.extend(NAME, status.uuid, status.state) as part:
            await part.write(data)
            await part.finish(Digest.of(data))
    uploads.close()
    pushed = await StoredManifests(driver, links=links).put(NAME, TAG, OCI_MANIFEST, image(CONFIG, [DATA]))
    driver.requests.clear()
    return pushed.digest


async def test_what_a_pull_asks_the_store_for() -> None:
    """As Docker and containerd pull: HEAD by tag, GET by digest, then the blobs.  The tag is read each time."""
    inner = MemoryDriver()
    digest = await _pushed(Far(inner))
    driver = Far(inner)
    links = Links(driver, lasts_s=2, clock=Clock())
    manifests, blobs = StoredManifests(driver, links=links), StoredBlobs(driver, links=links)

    async def pull() -> list[str]:
        driver.requests.clear()
        await manifests.get(NAME, TAG)
        await manifests.get(NAME, digest)
        for data in (CONFIG, DATA):
            assert isinstance(await blobs.fetch(NAME, Digest.of(data)), BlobRedirect)
        return driver.requests

    tag, revision = f"read {layout.tag_link(NAME, TAG)}", f"stat {layout.revision_link(NAME, digest)}"
    layers = [f"read {layout.layer_link(NAME, Digest.of(data))}" for data in (CONFIG, DATA)]
    listing = f"children {layout.COLLECTION}"
    assert await pull() == [listing, tag, revision, f"read {layout.blob_data(digest)}", *layers]
    assert await pull() == [tag]


async def test_deletions_of_digests_wait_and_of_tags_do_not() -> None:
    driver, sleep = Far(), Sleep()
    links = Links(driver, lasts_s=2, clock=Clock(), sleep=sleep)
    digest = await _pushed(driver, links)
    manifests = StoredManifests(driver, delete_enabled=True, links=links)
    blobs = StoredBlobs(driver, delete_enabled=True, links=links)
    await manifests.get(NAME, TAG)
    await manifests.delete(NAME, TAG)
    assert sleep.slept == []
    with pytest.raises(ManifestUnknown):
        await manifests.get(NAME, TAG)
    await manifests.get(NAME, digest)
    await manifests.delete(NAME, digest)
    assert len(sleep.slept) == 1
    with pytest.raises(ManifestUnknown):
        await manifests.get(NAME, digest)
    await blobs.stat(NAME, DIGEST)
    await blobs.delete(NAME, DIGEST)
    assert len(sleep.slept) == 2
    with pytest.raises(BlobUnknown):
        await blobs.stat(NAME, DIGEST)


async def test_a_mounted_blob_is_seen() -> None:
    driver = Far()
    links = Links(driver, lasts_s=2, clock=Clock())
    await _pushed(driver, links)
    blobs = StoredBlobs(driver, links=links)
    await blobs.mount(OTHER, DIGEST, NAME)
    driver.requests.clear()
    assert isinstance(await blobs.fetch(OTHER, DIGEST), BlobRedirect)
    assert driver.requests == []
