"""Removal of a whole repository: out of the catalog at once, others untouched, a crash continued, and undone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, T1, T2, everything, push
from tests.registry.instrumented import InstrumentedDriver

from moorage.errors import BlobUnknown, ManifestUnknown, NameUnknown, Unavailable, Unsupported
from moorage.registry import layout, repository_removal
from moorage.registry.blobs import StoredBlobs
from moorage.registry.interface import Caller
from moorage.registry.links import Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrers import StoredReferrers
from moorage.registry.repositories import StoredRepositories
from moorage.registry.restore import Restorer
from moorage.registry.tag_list import StoredTags
from moorage.registry.trash import Trash
from moorage.storage.driver import RequestCost, StorageUnavailable
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, image, index
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from moorage.storage.driver import Driver

ONE, OTHER = image(seed=1), image(seed=2, platform="linux/arm64")
BOTH = index(ONE, OTHER)
SIGNATURE = artifact("application/vnd.example.sig", subject=BOTH)
BELOW, BESIDE = RepoName(f"{NAME}/nested"), RepoName("library/alpine-other")
ADMIN = Caller("admin")


def repositories(driver: Driver, undo_s: float = 3600, links: Links | None = None) -> StoredRepositories:
    return StoredRepositories(driver, delete_enabled=True, trash=Trash(driver, keep_s=undo_s), links=links)


async def fill(driver: Driver) -> StoredManifests:
    manifests = StoredManifests(driver, delete_enabled=True, trash=Trash(driver, keep_s=3600))
    for name in (NAME, BELOW, BESIDE):
        await push(driver, manifests, BOTH, name=name, tags=(T1, T2))
        await push(driver, manifests, SIGNATURE, name=name)
    await push(driver, manifests, OTHER, tags=(T2,))
    return manifests


def of_repository(found: dict[str, bytes], name: RepoName = NAME) -> dict[str, bytes]:
    """The objects of a repository that clients see."""
    families = ("_layers", "_manifests", "_referrers")
    prefixes = tuple(f"{layout.repository(name)}/{family}/" for family in families)
    return {key: data for key, data in found.items() if key.startswith(prefixes)}


async def names(driver: Driver) -> tuple[str, ...]:
    return (await StoredRepositories(driver).list(limit=100)).names


@pytest.mark.parametrize("undo_s", [0, 3600])
async def test_a_repository_is_removed_and_others_stay(driver: Driver, undo_s: float) -> None:
    """A repository below it is another one, with other owners."""
    await fill(driver)
    before = await everything(driver)
    counted = await repositories(driver).removal(NAME).count()
    assert await everything(driver) == before, "a dry run"
    removed = await repositories(driver, undo_s).delete(NAME, caller=ADMIN)
    assert removed == counted
    assert (removed.manifests, removed.tags, removed.blobs) == (4, 2, len(set(BOTH.blobs) | {
        part.digest for part in (*BOTH.closure, *SIGNATURE.closure) if not part.is_manifest}))  # fmt: skip
    assert await names(driver) == (BELOW, BESIDE)
    after = await everything(driver)
    assert of_repository(after) == {}
    assert {key: data for key, data in after.items() if "/_trash/" not in key} == {
        key: data for key, data in before.items() if key not in of_repository(before)
    }
    assert any("/_trash/" in key for key in after) == bool(undo_s)
    fresh = StoredManifests(driver)
    with pytest.raises(ManifestUnknown):
        await fresh.get(NAME, T1)
    with pytest.raises(BlobUnknown):
        await StoredBlobs(driver).stat(NAME, ONE.blobs[0].digest)
    with pytest.raises(NameUnknown):
        await StoredTags(driver).list(NAME)
    with pytest.raises(NameUnknown):
        await repositories(driver).delete(NAME)


async def test_an_unknown_repository_is_refused_and_one_that_only_holds_others_too(driver: Driver) -> None:
    """A slip must not look like a success."""
    await fill(driver)
    for name in (RepoName("nothing"), RepoName("library")):
        with pytest.raises(NameUnknown):
            await repositories(driver).delete(name)
    with pytest.raises(Unsupported, match=r"storage\.delete\.enabled"):
        await StoredRepositories(driver).delete(NAME)
    assert NAME in await names(driver)


async def test_undo_brings_back_every_byte(driver: Driver) -> None:
    """Tags, manifests, referrers and blobs, in a process that has just started."""
    manifests = await fill(driver)
    before = of_repository(await everything(driver))
    listed = await StoredReferrers(driver, manifests).list(NAME, BOTH.digest)
    await repositories(driver).delete(NAME, caller=ADMIN)
    restorer = Restorer(driver, by="root")
    result = await restorer.repository(NAME)
    await restorer.close()
    assert (result.tags, result.kept, result.problems) == ({T1: BOTH.digest, T2: OTHER.digest}, [], [])
    after = of_repository(await everything(driver))
    # The history of the tags is in `_history` and the trash now.
    assert after.items() <= before.items()
    assert {key for key in before if key not in after} == {str(layout.tag_history_link(NAME, T2, BOTH.digest))}
    fresh = StoredManifests(driver)
    assert (await fresh.get(NAME, T1)).data == BOTH.data
    assert await StoredReferrers(driver, fresh).list(NAME, BOTH.digest) == listed
    assert NAME in await names(driver)


async def test_what_was_pushed_since_stays_when_it_is_undone(driver: Driver) -> None:
    """A new image under an old tag is not replaced by accident."""
    manifests = await fill(driver)
    await repositories(driver).delete(NAME)
    await push(driver, manifests, ONE, tags=(T1,))
    assert NAME in await names(driver)
    restorer = Restorer(driver)
    result = await restorer.repository(NAME)
    await restorer.close()
    assert (result.kept, result.tags) == ([T1], {T2: OTHER.digest})
    assert (await manifests.get(NAME, T1)).digest == ONE.digest


class Crashing(InstrumentedDriver):
    """Fails from the `left`-th change on."""

    left = 10**9

    async def before(self, call: str) -> None:
        if call.startswith(("write", "delete", "clear", "prune")):
            self.left -= 1
            if self.left < 0:
                raise StorageUnavailable("crashed")


async def test_a_crash_at_any_step_is_continued_and_all_of_it_can_be_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is removed before it is recorded, and two halves of a deletion are restored as one."""
    monkeypatch.setattr(repository_removal, "_BATCH", 1)
    step = 0
    while True:
        store = Crashing(MemoryDriver())
        await fill(store)
        before = of_repository(await everything(store))
        store.left = step
        crashed = True
        try:
            await repositories(store).delete(NAME)
            crashed = False
        except Unavailable:
            pass
        store.left = 10**9
        if crashed:
            if not [key for key in of_repository(await everything(store)) if "/revisions/" in key]:
                assert NAME not in await names(store), "at once, not when all tags are gone"
            try:
                await repositories(store).delete(NAME)
            except NameUnknown:
                assert of_repository(await everything(store)) == {}
        assert of_repository(await everything(store)) == {}
        assert NAME not in await names(store)
        restorer = Restorer(store)
        result = await restorer.repository(NAME)
        await restorer.close()
        assert result.problems == []
        assert result.tags == {T1: BOTH.digest, T2: OTHER.digest}, step
        assert (await Trash(store, keep_s=1).deletions(NAME))[-1].ended
        after = of_repository(await everything(store))
        assert set(before) - set(after) <= {str(layout.tag_history_link(NAME, T2, BOTH.digest))}, step
        if not crashed:
            break
        step += 1
    assert step >= 12


async def test_a_manifest_that_is_pushed_meanwhile_is_whole_or_refused() -> None:
    """A 201 for an image that cannot be pulled would be noticed at the next deployment."""

    class Pushing(InstrumentedDriver):
        done = False

        async def before(self, call: str) -> None:
            if not self.done and call.startswith("delete") and "_layers" in call:
                self.done = True
                await manifests.put(NAME, Tag("late"), ONE.media_type, ONE.data)

    inner = MemoryDriver()
    manifests = await fill(inner)
    await repositories(Pushing(inner)).delete(NAME)
    assert (await StoredManifests(inner).get(NAME, Tag("late"))).data == ONE.data
    for part in ONE.blobs:
        await StoredBlobs(inner).stat(NAME, part.digest)
    assert NAME in await names(inner)


async def test_nodes_with_leases_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket, another node may serve a link for two seconds: the deletion is answered when it does not."""
    slept: list[float] = []

    class Remote(InstrumentedDriver):
        request_cost = RequestCost.NETWORK

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    store = Remote(MemoryDriver())
    await fill(store)
    await repositories(store, links=Links(store, lasts_s=2.0, sleep=sleep)).delete(NAME)
    assert len(slept) == 2, "once for manifests and once for blobs, not for each"
    assert all(2.0 < seconds < 3.0 for seconds in slept)


async def test_the_number_of_calls_grows_with_batches_and_memory_does_not() -> None:
    """A repository with 100,000 tags must neither fill the memory nor take a call for each of them twice."""
    calls: list[str] = []

    class Counting(InstrumentedDriver):
        async def before(self, call: str) -> None:
            calls.append(call.split(maxsplit=1)[0])

    store = Counting(MemoryDriver())
    tags = 3000
    await push(store, StoredManifests(store), ONE)
    for number in range(tags):
        for key in (layout.tag_link(NAME, Tag(f"v{number}")), layout.tag_history_link(NAME, Tag(f"v{number}"), A)):
            await store.write(key, str(ONE.digest).encode())
    calls.clear()
    began = time.perf_counter()
    removed = await repositories(store).delete(NAME)
    assert removed.tags == tags
    assert calls.count("read") < tags + 50
    assert len(calls) - calls.count("read") < 120, "deleted by the hundred"
    assert time.perf_counter() - began < 30


A = Digest.of(b"a")
