"""Sweeps beside requests of the real registry, at any moment of a removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.gc.running import AT_ONCE, TINY, FakeClock, gone, is_whole, put, run, state_of
from tests.moments import moments
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import RegistryError
from moorage.gc.manifest_graph import Edges, topological_levels
from moorage.gc.markers import ListEntry, decode_entries, encode_entries
from moorage.gc.options import CollectionOptions
from moorage.gc.work import LOCAL_ROUND
from moorage.registry import layout
from moorage.registry.sizes import MemorySizes, NotForgotten
from moorage.registry.stored import StoredRegistry
from moorage.storage.driver import RequestCost, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image, index
from moorage.testing.registry_fixtures import NAME, push
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.storage.driver import Driver

APP = RepoName("team/app")
BUILT = image(blob(size=100, seed=1), blob(size=50, seed=2))


class Interrupted(InstrumentedDriver):
    """A collector's driver: `action` runs once before call number `at`, as another process."""

    def __init__(self, driver: Driver, at: int, action: Callable[[], Awaitable[None]]) -> None:
        super().__init__(driver)
        self.at = at
        self.action = action
        self.calls = 0

    async def before(self, call: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            await self.action()


async def calls_of_a_run(options: CollectionOptions = AT_ONCE, *, simple: bool = True, **more: Any) -> int:
    store = MemoryDriver()
    await put(store, BUILT)
    counting = Interrupted(store, -1, lambda: pytest.fail("never"))
    await run(counting, options, simple=simple, **more)
    return counting.calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wait_s", "name", "simple", "round_objects"),
    [
        (0, APP, True, LOCAL_ROUND),
        (600, APP, True, LOCAL_ROUND),
        (600, NAME, True, LOCAL_ROUND),
        (0, APP, False, LOCAL_ROUND),
        (0, APP, True, TINY),
        (0, APP, False, TINY),
    ],
)
async def test_a_push_at_any_moment_of_a_run_is_kept_or_refused(
    wait_s: float, name: RepoName, simple: bool, round_objects: int
) -> None:
    """The image is garbage, and pushed again by a client between any two calls of the collector."""
    options = CollectionOptions(delete_untagged=True, grace_s=0, undo_s=0, wait_s=wait_s)
    kept = 0
    more: dict[str, Any] = {"simple": simple, "round_objects": round_objects}
    for at in moments(await calls_of_a_run(options, **more), 7 if wait_s else 3):
        store = MemoryDriver()
        await put(store, BUILT)
        clock = FakeClock()
        registry = StoredRegistry(store, b"secret", clock=clock, sleep=clock.sleep)
        outcome: list[bool] = []

        async def push_again(registry: StoredRegistry = registry, outcome: list[bool] = outcome) -> None:
            try:
                await push(registry, BUILT, "v1", name=name)
            except RegistryError:
                outcome.append(False)
            else:
                outcome.append(True)

        await run(Interrupted(store, at, push_again), options, clock=clock, **more)
        assert outcome
        if outcome == [True]:
            kept += 1
            assert await is_whole(store, BUILT, name=name), at
    assert kept


@pytest.mark.slow
async def test_a_head_at_any_moment_of_the_wait_keeps_what_it_answers_for() -> None:
    """A client that was answered 200 for a layer does not send it: the push that follows must find it."""
    [config] = [part for part in BUILT.parts if "config" in part.media_type]
    answered = 0
    registry_store: list[MemoryDriver] = []
    for at in moments(await calls_of_a_run(), 3):
        store = MemoryDriver()
        registry_store.append(store)
        await put(store, BUILT)
        clock = FakeClock()
        registry = StoredRegistry(store, b"secret", clock=clock, sleep=clock.sleep)
        found: list[bool] = []
        before: list[bool] = []

        async def head(
            registry: StoredRegistry = registry, found: list[bool] = found, before: list[bool] = before
        ) -> None:
            # Without lists there is nothing to rescue: then the wait protects the client.
            before.append("condemned" in await state_of(registry_store[-1]))
            try:
                await registry.blobs.stat(APP, config.digest)
            except RegistryError:
                found.append(False)
            else:
                found.append(True)

        driver = Interrupted(store, at, head)
        await run(driver, clock=clock, simple=True)
        if found == [True] and before[0]:
            answered += 1
            assert await store.find(layout.blob_data(config.digest)) is not None, at
            assert await store.find(layout.layer_link(APP, config.digest)) is not None, at
    assert answered


async def test_a_rescued_manifest_keeps_all_that_it_names() -> None:
    """A pull by digest gets the manifest, and asks for its layers a moment later."""
    store = MemoryDriver()
    await put(store, BUILT)

    async def rescue(seconds: float) -> None:
        if 300 < seconds <= 310:
            await store.write(layout.rescued(BUILT.digest), str(BUILT.digest).encode())

    report = await run(store, clock=FakeClock(rescue))
    assert await is_whole(store, BUILT)
    assert report.kept
    assert not report.freed.objects
    assert await state_of(store) == {"ended", "reserve"}
    await run(store)
    assert await gone(store, BUILT)


async def test_what_is_rescued_after_it_was_doomed_is_withdrawn_before_its_bytes_go() -> None:
    """`settled` waits for a withdrawal: its client would get a 503 for nothing."""
    store = MemoryDriver()
    orphan = blob(size=10, seed=9)
    await store.write(layout.blob_data(orphan.digest), orphan.data)

    class Rescuing(InstrumentedDriver):
        async def after_change(self, call: str) -> None:
            if "/doomed." in call:
                await self._driver.write(layout.rescued(orphan.digest), b"")

    report = await run(Rescuing(store))
    assert report.kept == 1
    assert await store.find(layout.blob_data(orphan.digest)) is not None
    assert "doomed" not in await state_of(store)


async def test_a_link_that_appears_after_the_mark_withdraws_its_blob() -> None:
    """A writer without rescue, stopped between reliance and link: the last look at the links finds it."""
    store = MemoryDriver()
    orphan = blob(size=10, seed=9)
    await store.write(layout.blob_data(orphan.digest), orphan.data)

    class Linking(InstrumentedDriver):
        async def after_change(self, call: str) -> None:
            if "/doomed." in call:
                await put(self._driver, image(orphan), "v1")

    await run(Linking(store))
    assert await store.find(layout.blob_data(orphan.digest)) is not None


async def test_bytes_that_were_stored_again_are_not_removed() -> None:
    """The object under the digest is another one: of a push that is not linked yet."""
    store = MemoryDriver()
    orphan = blob(size=10, seed=9)
    key = layout.blob_data(orphan.digest)
    await store.write(key, orphan.data)

    class Pushing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call.startswith("remove "):
                await self._driver.write(key, orphan.data)

    report = await run(Pushing(store))
    assert await store.find(key) is not None
    assert report.freed.objects == 0


async def test_parents_go_before_children() -> None:
    """A crash in between must not leave an index whose manifests are gone."""
    store = MemoryDriver()
    inner = index(BUILT)
    outer = index(inner, image(blob(size=5, seed=8), platform="linux/arm64"))
    await put(store, outer)
    watched = InstrumentedDriver(store)
    await run(watched)
    changes = [change for change in watched.changes if change.startswith("delete ")]
    at = {
        digest: next(number for number, change in enumerate(changes) if f"revisions/sha256/{digest.hex}" in change)
        for digest in (outer.digest, inner.digest, BUILT.digest)
    }
    assert at[outer.digest] < at[inner.digest] < at[BUILT.digest]
    first_layer = next(number for number, change in enumerate(changes) if "_layers" in change)
    assert at[BUILT.digest] < first_layer


def test_levels_of_an_index_in_two_repositories() -> None:
    one, two = Digest.of(b"1"), Digest.of(b"2")
    links = {(RepoName("a"), two), (RepoName("b"), one), (RepoName("a"), one)}
    assert topological_levels(links, {one: Edges((two, two), None)}) == [
        [(RepoName("a"), one), (RepoName("b"), one)],
        [(RepoName("a"), two)],
    ]


async def test_a_failed_removal_stays_doomed(caplog: pytest.LogCaptureFixture) -> None:
    """A DELETE without an answer may be carried out later: until then nobody may store that digest again."""
    del caplog
    store = MemoryDriver()
    orphan = blob(size=10, seed=9)
    await store.write(layout.blob_data(orphan.digest), orphan.data)

    class Failing(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call.startswith("remove "):
                raise StorageUnavailable("timeout")

    with pytest.raises(StorageUnavailable):
        await run(Failing(store))
    assert "doomed" in await state_of(store)
    report = await run(store)
    assert report.quarantined == 1
    assert await gone(store, orphan)


async def test_a_slow_removal_in_a_remote_store_stays_doomed_for_the_quarantine() -> None:
    """The library may have sent it twice: the first one may still be on its way."""
    store = MemoryDriver()
    orphan = blob(size=10, seed=9)
    await store.write(layout.blob_data(orphan.digest), orphan.data)
    clock = FakeClock()

    class Slow(InstrumentedDriver):
        request_cost = RequestCost.NETWORK

        async def after_change(self, call: str) -> None:
            if call.startswith("remove "):
                clock.seconds += 30

    phases: list[str] = []
    await run(Slow(store), clock=clock, progress=lambda phase, done, total: phases.append(phase))
    assert "quarantine" in phases
    assert await state_of(store) == {"ended", "reserve"}


async def test_a_cache_that_cannot_be_reached_keeps_the_bytes() -> None:
    """A size in Redis means that the bytes are there: HEAD would answer 200 for ever."""
    store = MemoryDriver()
    orphan = blob(size=10, seed=9)
    await store.write(layout.blob_data(orphan.digest), orphan.data)

    class Unreachable(MemorySizes):
        async def collecting(self, digests: Sequence[Digest]) -> None:
            raise NotForgotten("redis is down")

    report = await run(store, sizes=Unreachable(0))
    assert (report.outcome, report.freed.objects) == ("interrupted", 0)
    assert "redis is down" in report.reason
    assert "doomed" not in await state_of(store)
    assert await store.find(layout.blob_data(orphan.digest)) is not None


async def test_a_collector_whose_markers_are_gone_removes_nothing() -> None:
    """Another one has taken over, and requests observe its markers instead."""
    store = MemoryDriver()
    await put(store, BUILT)

    class Replaced(InstrumentedDriver):
        async def after_change(self, call: str) -> None:
            if call.startswith("write ") and "/doomed." in call:
                await self._driver.delete([layout.collection("running.mine")])

    report = await run(Replaced(store), token="mine")
    assert report.outcome == "interrupted"
    assert "another collector" in report.reason
    assert await is_whole(store, BUILT)


def test_entries_survive_their_text() -> None:
    """Requests of every node read them."""
    entries = [ListEntry(BUILT.digest), ListEntry(BUILT.digest, "team/app")]
    assert set(decode_entries(encode_entries(entries) + b"torn")) == set(entries)
