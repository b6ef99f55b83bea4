"""Runs of many rounds: they remove what one round removes, with clients, losses and other runs between them."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.gc.running import APP, AT_ONCE, OTHER, THIRD, TINY, FakeClock, Garbage, is_whole, put, run, state_of
from tests.gc.stores import EAGER, NOW, Store, mark
from tests.gc.test_marks_again import change
from tests.registry.instrumented import InstrumentedDriver

from moorage.gc.mark import Marker
from moorage.gc.work import LOCAL_ROUND, Candidates, Stage, Work
from moorage.registry import layout
from moorage.registry.collection_state import DOOMED, decode_entries, list_state
from moorage.registry.stored import StoredRegistry
from moorage.storage.driver import ALWAYS, StorageUnavailable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image, index
from moorage.testing.registry_fixtures import push
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from moorage.storage.driver import Driver, Key, Stat, Version, When

CHILD = image(blob(size=70, seed=1), seed=1)
PARENT = index(CHILD, image(blob(size=80, seed=2), seed=2, platform="linux/arm64"))


async def keys(driver: Driver) -> set[str]:
    return {stat.key async for page in driver.scan(layout.ROOT) for stat in page if "_moorage" not in stat.key}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_many_rounds_leave_the_store_that_one_round_leaves(store: Store, tmp_path: Path, seed: int) -> None:
    """Pushes, mounts, deletions and lost links of years, in any order."""
    randomly = random.Random(seed)
    for _ in range(60):
        change(store, randomly)
    left: list[set[str]] = []
    reports = []
    for size in (LOCAL_ROUND, 1, 20):
        copied = tmp_path / f"copy of {size}"
        shutil.copytree(store.root / "docker", copied / "docker")
        driver = FilesystemDriver(copied)
        report = await run(driver, AT_ONCE, round_objects=size)
        assert (report.outcome, report.kept) == ("finished", 0)
        reports.append((report.freed, report.manifests, report.layers, report.freeable))
        left.append(await keys(driver))
        await driver.close()
    assert left == [left[0]] * len(left)
    assert reports == [reports[0]] * len(reports)
    assert reports[0][0].objects
    assert reports[0][1]


class Watching(InstrumentedDriver):
    """Keeps the entries of lists of doomed digests; `between` is called when the first one was removed."""

    def __init__(self, driver: Driver, between: Callable[[], Awaitable[object]] | None = None) -> None:
        super().__init__(driver)
        self.rounds: list[list[tuple[str, str]]] = []
        self.between = between

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        if f"/{DOOMED}." in key:
            self.rounds.append([(entry.name, entry.digest) for entry in decode_entries(data)])
        return await super().write(key, data, when)

    async def after_change(self, call: str) -> None:
        if self.between is not None and call.startswith("delete ") and f"/{DOOMED}." in call:
            between, self.between = self.between, None
            await between()


async def two_repositories() -> MemoryDriver:
    """Return a store with an untagged image in APP, and in THIRD an untagged index that lists it."""
    store = MemoryDriver()
    await put(store, CHILD)
    await put(store, PARENT, name=THIRD)
    await put(store, image(blob(seed=9), seed=9), "v1", name=OTHER)
    return store


async def test_links_go_by_repository_and_bytes_go_last() -> None:
    """The list of one round names what one repository has; a crash after it leaves the others whole."""
    driver = Watching(await two_repositories())
    await run(driver, round_objects=TINY)
    names = [{name for name, _ in entries} for entries in driver.rounds]
    links = [found for found in names if found != {""}]
    assert names == [*links, *[{""}] * (len(names) - len(links))]
    assert [len(found) for found in links] == [1] * len(links)
    assert {name for found in links for name in found} == {APP, THIRD}
    # All revisions of a repository are in one round.
    [revisions] = [entries for entries in driver.rounds if (THIRD, PARENT.digest) in entries]
    assert (THIRD, CHILD.digest) in revisions
    assert await keys(driver) == await keys(await a_store_of_the_live())


async def a_store_of_the_live() -> MemoryDriver:
    store = MemoryDriver()
    await put(store, image(blob(seed=9), seed=9), "v1", name=OTHER)
    return store


@pytest.mark.parametrize("simple", [False, True])
async def test_a_push_between_two_rounds_keeps_a_later_repository_whole(simple: bool) -> None:
    """Its image was removed from another repository a moment before."""
    store = await two_repositories()
    clock = FakeClock()
    registry = StoredRegistry(store, b"secret", clock=clock, sleep=clock.sleep)

    async def between() -> None:
        assert await store.find(layout.revision_link(APP, CHILD.digest)) is None
        await push(registry, PARENT, "v1", name=THIRD)

    driver = Watching(store, between)
    report = await run(driver, round_objects=TINY, clock=clock, simple=simple)
    assert driver.between is None
    assert report.outcome == "finished"
    assert await is_whole(store, PARENT, name=THIRD)
    assert await store.find(layout.revision_link(APP, CHILD.digest)) is None
    assert await state_of(store) == {"ended", "reserve"}


@pytest.mark.parametrize("simple", [False, True])
async def test_an_index_that_is_rescued_before_the_round_of_its_repository_keeps_all_of_it(simple: bool) -> None:
    """Its manifests and layers are those of a later round than the one that has read it first."""
    store = await two_repositories()

    async def rescue(seconds: float) -> None:
        if 300 < seconds <= 310:
            await store.write(layout.rescued(PARENT.digest), str(PARENT.digest).encode())

    report = await run(store, round_objects=TINY, clock=FakeClock(rescue), simple=simple)
    assert report.kept
    assert await is_whole(store, PARENT, name=THIRD)


async def test_a_rescue_between_two_rounds_keeps_what_is_left() -> None:
    store = await two_repositories()

    async def between() -> None:
        await store.write(layout.rescued(PARENT.digest), str(PARENT.digest).encode())

    await run(Watching(store, between), round_objects=TINY)
    assert await is_whole(store, PARENT, name=THIRD)
    await run(store, round_objects=TINY)
    assert await keys(store) == await keys(await a_store_of_the_live())


async def test_garbage_that_was_not_condemned_keeps_its_bytes() -> None:
    """A tag goes between the first mark and the rounds: its manifest is dead, and its layers are no candidates."""
    store = await two_repositories()
    late = image(blob(size=70, seed=1), seed=3)
    await put(store, late, "v1", name=RepoName("team/zz"))

    async def delete_tag(seconds: float) -> None:
        if 300 < seconds <= 310:
            await store.delete([layout.tag_link(RepoName("team/zz"), "v1")])  # type: ignore[arg-type]

    await run(store, round_objects=TINY, clock=FakeClock(delete_tag))
    assert await is_whole(store, late, name=RepoName("team/zz"))


@pytest.mark.parametrize("round_objects", [LOCAL_ROUND, TINY])
async def test_lists_of_a_dead_run_and_new_garbage_are_removed_in_their_turn(round_objects: int) -> None:
    """What it has condemned goes at once, what it was removing after the quarantine, the rest after the wait."""
    store = await two_repositories()

    class Dying(InstrumentedDriver):
        async def before(self, call: str) -> None:
            if call.startswith("delete ") and "_layers" in call:
                raise StorageUnavailable("no answer")

    with pytest.raises(StorageUnavailable):
        await run(Dying(store), round_objects=round_objects)
    assert {name.kind for name in await list_state(store)} >= {"running", "condemned", "doomed"}
    new = image(blob(size=20, seed=40), seed=40)
    await put(store, new, name=OTHER)
    report = await run(store, round_objects=round_objects)
    assert (report.outcome, report.resumed) == ("finished", True)
    assert report.quarantined
    await run(store)
    assert await keys(store) == await keys(await a_store_of_the_live())


@pytest.mark.parametrize("moment", ["links", "bytes"])
@pytest.mark.parametrize("simple", [False, True])
async def test_a_link_that_appears_between_rounds_keeps_its_bytes(moment: str, simple: bool) -> None:
    """Of a writer that was stopped before it could rescue them: no round of links looks at its repository."""
    store = await two_repositories()
    [config] = [part for part in CHILD.parts if "config" in part.media_type]

    class Linking(InstrumentedDriver):
        linked = False

        async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
            version = await super().write(key, data, when)
            names = {entry.name for entry in decode_entries(data)} if f"/{DOOMED}." in key else {None}
            if not self.linked and (names == {""} if moment == "bytes" else THIRD in names):
                self.linked = True
                await self._driver.write(layout.layer_link(OTHER, config.digest), str(config.digest).encode())
            return version

    driver = Linking(store)
    assert (await run(driver, round_objects=TINY, simple=simple)).outcome == "finished"
    assert driver.linked
    assert await store.find(layout.blob_data(config.digest)) is not None
    assert await store.find(layout.layer_link(OTHER, config.digest)) is not None
    assert await store.find(layout.blob_data(CHILD.digest)) is None


@pytest.mark.parametrize("round_objects", [LOCAL_ROUND, TINY])
@pytest.mark.parametrize("is_linked", [True, False])
async def test_what_waits_for_the_quarantine_keeps_all_that_it_names(round_objects: int, is_linked: bool) -> None:
    """A removal of its link by a dead run may be lost, and a client may push it again: until then it is whole."""
    store = await two_repositories()
    layer = next(part for part in CHILD.parts if "config" not in part.media_type)
    if not is_linked:
        await store.delete([layout.layer_link(THIRD, layer.digest)])
    await store.write(layout.collection("running.x"), b"")
    await store.write(layout.collection("doomed.x.00000"), f"{PARENT.digest}\n".encode())
    seen: list[float] = []

    async def during(seconds: float) -> None:
        if await store.find(layout.revision_link(THIRD, PARENT.digest)) is not None:
            seen.append(seconds)
            assert is_linked is await is_whole(store, PARENT, name=THIRD)
            for part in PARENT.closure:
                assert await store.find(layout.blob_data(part.digest)) is not None

    report = await run(store, round_objects=round_objects, clock=FakeClock(during))
    assert (report.outcome, report.quarantined) == ("finished", 1)
    assert max(seen) > 1600
    assert await store.find(layout.revision_link(APP, CHILD.digest)) is None or round_objects == LOCAL_ROUND
    await run(store, round_objects=round_objects)
    assert await keys(store) == await keys(await a_store_of_the_live())


# Rounds.


async def test_rounds_have_whole_repositories_and_no_more_than_the_limit(store: Store) -> None:
    """Memory is bounded by a round."""
    for number in range(12):
        store.manifest(f"team/{number:02}", image(blob(seed=number), seed=number))
    store.manifest("large", index(*(image(blob(seed=number), seed=number) for number in range(20, 30))))
    marked = await mark(store)
    candidates = Candidates(marked, None, {1: Stage.READY})
    assert not list(candidates.rounds(Stage.WAITING, 10))
    whole = Work(set(marked.revisions), set(marked.layers), set(marked.blobs))
    assert list(candidates.rounds(Stage.READY, candidates.count(Stage.READY))) == [whole]
    found = list(candidates.rounds(Stage.READY, 10))
    for work in found:
        assert not (work.blobs and (work.revisions or work.layers))
        assert len(work) <= 10 or work.revisions == {link for link in marked.revisions if link[0] == "large"}
        for name in work.repositories() - {"large"}:
            assert {link for link in work.revisions if link[0] == name} == {
                link for link in marked.revisions if link[0] == name
            }
    assert sum(map(len, found)) == len(whole)
    assert set().union(*(work.revisions for work in found)) == whole.revisions
    assert set().union(*(work.layers for work in found)) == whole.layers
    assert set().union(*(work.blobs for work in found)) == whole.blobs
    assert candidates.entry_count(Stage.READY) == len(whole.blobs)


async def test_candidates_have_the_stages_of_their_codes(store: Store) -> None:
    """Lists of a dead run name some of them."""
    store.manifest("a", CHILD)
    store.push("b", "v1", image(CHILD.parts[1]))
    store.layer("a", store.blob(b"alive elsewhere"))
    store.push("c", "v1", image(blob(b"alive elsewhere")))
    marked = await mark(store)
    size = len(marked.revisions) + len(marked.layers) + len(marked.blobs)
    codes = bytearray(number % 4 for number in range(size))
    stages = {0: Stage.UNLISTED, 1: Stage.READY, 2: Stage.WAITING, 3: Stage.BLOCKED}
    candidates = Candidates(marked, codes, stages)
    everything = [*marked.revisions, *marked.layers, *marked.blobs]
    for code, stage in stages.items():
        found = [
            each for work in candidates.rounds(stage, 2) for each in (*work.revisions, *work.layers, *work.blobs)
        ]
        assert sorted(map(str, found)) == sorted(map(str, everything[code::4]))
        assert candidates.count(stage) == len(found)
        assert candidates.codes(stage) == {code: len(found)}


async def test_a_look_for_links_examines_their_repositories_only(store: Store) -> None:
    """Twenty rounds must not cost twenty marks of everything."""
    for number in range(4):
        store.manifest(f"team/{number}", image(blob(seed=number), seed=number))
    marker = Marker(store.driver, EAGER, now=NOW)
    first = await marker.mark()
    assert not first.stats
    wanted = Work({link for link in first.revisions if link[0] == "team/2"})
    again = await marker.mark(wanted)
    assert again.revisions == wanted.revisions
    assert {name for name, _ in again.layers} == {"team/2"}
    assert not again.blobs
    assert again.counts.repositories == 1
    digest = next(iter(first.blobs))
    again = await marker.mark(Work(blobs={digest, Digest.of(b"another")}))
    assert (again.revisions, again.layers) == (first.revisions, first.layers)
    assert set(again.blobs) == again.stats.keys() == {digest}
    assert again.stats[digest].size == first.blobs[digest]


async def test_a_round_of_many_levels_removes_parents_first(store: Store) -> None:
    """A limit below the size of a repository does not part its manifests."""
    del store
    driver = MemoryDriver()
    inner = index(CHILD)
    outer = index(inner)
    await put(driver, outer)
    watched = InstrumentedDriver(driver)
    await run(watched, round_objects=1)
    changes = [change for change in watched.changes if change.startswith("delete ")]
    at = [
        next(place for place, found in enumerate(changes) if f"revisions/sha256/{built.digest.hex}" in found)
        for built in (outer, inner, CHILD)
    ]
    assert at == sorted(at)
    assert len(set(at)) == 3


async def test_a_slow_store_ends_the_run_between_rounds() -> None:
    """A round that removes nothing would be repeated for ever."""
    store = MemoryDriver()
    garbage = Garbage()
    await garbage.write(store)
    clock = FakeClock()

    class Slow(InstrumentedDriver):
        removed = 0

        async def before(self, call: str) -> None:
            if call.startswith("delete ") and "revisions" in call:
                self.removed += 1

        async def after_change(self, call: str) -> None:
            if self.removed and f"/{DOOMED}." in call and call.startswith("write "):
                clock.seconds += 10_000

        async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
            raise AssertionError(f"{objects}: no round of bytes begins")

    report = await run(Slow(store), clock=clock, round_objects=TINY)
    assert (report.outcome, report.reason[:21]) == ("interrupted", "the store is too slow")
    assert report.manifests
    await garbage.check(store, removed=False)
