"""Restore: what was deleted or moved comes back whole, byte for byte, or nothing changes."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, T1, T2, everything, push

from moorage.errors import BlobUnknown, ManifestUnknown
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.blobs import StoredBlobs
from moorage.registry.history import TagHistory
from moorage.registry.interface import Caller
from moorage.registry.links import Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrers import StoredReferrers
from moorage.registry.repository_removal import RepositoryRemoval
from moorage.registry.restore import RESTORED, Restorer, RestoreRefused
from moorage.registry.tag_list import StoredTags
from moorage.registry.timeline import tag_timeline
from moorage.registry.trash import Trash
from moorage.testing.builders import artifact, image, index
from moorage.types import Digest, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.storage.driver import Driver
    from moorage.testing.builders import Built

ONE, OTHER = image(seed=1), image(seed=2, platform="linux/arm64")
BOTH = index(ONE, OTHER)
SIGNATURE = artifact("application/vnd.example.sig", subject=ONE)
UNDO_S = 3600.0


class Registry:
    """A process that serves the store."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        trash = Trash(driver, keep_s=UNDO_S)
        self.history = TagHistory(driver)
        self.manifests = StoredManifests(driver, delete_enabled=True, trash=trash, history=self.history)
        self.blobs = StoredBlobs(driver, delete_enabled=True, trash=trash)
        self.tags = StoredTags(driver)

    async def push(self, built: Built, *tags: Tag) -> None:
        await push(self.driver, self.manifests, built, tags=tags)

    async def state(self) -> dict[str, Digest]:
        """Return where each living tag leads."""
        return {
            tag: (await self.manifests.get(NAME, Tag(tag))).digest for tag in (await self.tags.list(NAME)).names
        }


@pytest.fixture
def registry(driver: Driver) -> Registry:
    return Registry(driver)


@pytest.fixture
async def restorer(driver: Driver) -> AsyncIterator[Restorer]:
    """Another process than the one that deleted."""
    found = Restorer(driver, by="root")
    yield found
    await found.close()


async def pull(driver: Driver, reference: Tag | Digest, built: Built) -> None:
    """Pull as a process that has just started, and compare every byte."""
    fresh = Registry(driver)
    assert (await fresh.manifests.get(NAME, reference)).data == built.data
    for part in built.closure:
        if part.is_manifest:
            assert (await fresh.manifests.get(NAME, part.digest)).data == part.data
        else:
            assert (await fresh.blobs.stat(NAME, part.digest)).size == part.size


async def test_a_deleted_tag_comes_back(registry: Registry, restorer: Restorer, driver: Driver) -> None:
    """The most frequent accident: a wrong name in a clean-up."""
    await registry.push(ONE, T1, T2)
    await registry.manifests.delete(NAME, T1)
    result = await restorer.tag(NAME, T1)
    assert (result.tags, result.manifests, result.layers) == ({T1: ONE.digest}, [], [])
    await pull(driver, T1, ONE)
    await registry.history.close()
    await restorer.close()
    last = (await tag_timeline(driver, NAME, T1))[-1]
    assert (last.digest, last.by, last.reason) == (ONE.digest, "root", RESTORED)


async def test_a_manifest_comes_back_with_tags(registry: Registry, restorer: Restorer, driver: Driver) -> None:
    """Deleting by digest removes every tag of the manifest; undoing it brings these back, and no other."""
    await registry.push(ONE, T1, T2)
    await registry.push(OTHER, T2)
    await registry.manifests.delete(NAME, ONE.digest)
    result = await restorer.digest(NAME, ONE.digest)
    assert result.tags == {T1: ONE.digest}
    assert await registry.state() == {T1: ONE.digest, T2: OTHER.digest}
    await pull(driver, ONE.digest, ONE)


async def test_a_tag_of_a_deleted_manifest_comes_back_alone(registry: Registry, restorer: Restorer) -> None:
    """The operator named one tag; the others may have been the reason of the deletion."""
    await registry.push(ONE, T1, T2)
    await registry.manifests.delete(NAME, ONE.digest)
    result = await restorer.tag(NAME, T1)
    assert (result.tags, result.manifests) == ({T1: ONE.digest}, [ONE.digest])
    assert await registry.state() == {T1: ONE.digest}


async def test_an_index_comes_back_with_its_platforms_and_layers(
    registry: Registry, restorer: Restorer, driver: Driver
) -> None:
    """A clean-up that removes everything one by one can be undone by the name of the tag."""
    await registry.push(BOTH, T1)
    for part in reversed(BOTH.closure):
        if part.is_manifest:
            await registry.manifests.delete(NAME, part.digest)
        else:
            await registry.blobs.delete(NAME, part.digest)
    with pytest.raises(ManifestUnknown):
        await registry.manifests.get(NAME, T1)
    result = await restorer.tag(NAME, T1)
    assert set(result.manifests) == {ONE.digest, OTHER.digest, BOTH.digest}
    assert result.manifests[-1] == BOTH.digest, "children first"
    assert set(result.layers) == {part.digest for part in BOTH.closure if not part.is_manifest}
    await pull(driver, T1, BOTH)


async def test_a_sparse_index_comes_back(registry: Registry, restorer: Restorer, driver: Driver) -> None:
    """A child that the repository never had is not missing."""
    await registry.push(BOTH, T1)
    await driver.clear(layout.revisions(NAME) + f"/sha256/{OTHER.digest.hex}")  # type: ignore[arg-type]
    await driver.delete([layout.blob_data(OTHER.digest)])
    await registry.manifests.delete(NAME, BOTH.digest)
    assert (await restorer.digest(NAME, BOTH.digest)).tags == {T1: BOTH.digest}
    assert (await registry.manifests.get(NAME, T1)).digest == BOTH.digest


async def test_a_signature_is_listed_again(registry: Registry, restorer: Restorer, driver: Driver) -> None:
    """Else the image comes back and its policy check fails."""
    await registry.push(ONE, T1)
    await registry.push(SIGNATURE)
    referrers = StoredReferrers(driver, registry.manifests)
    before = await referrers.list(NAME, ONE.digest)
    await registry.manifests.delete(NAME, SIGNATURE.digest)
    assert (await referrers.list(NAME, ONE.digest)).entries == ()
    await restorer.digest(NAME, SIGNATURE.digest)
    assert await referrers.list(NAME, ONE.digest) == before


async def test_a_blob_comes_back(registry: Registry, restorer: Restorer, driver: Driver) -> None:
    """A blob deleted by digest leaves images that cannot be pulled."""
    await registry.push(ONE, T1)
    layer = ONE.blobs[0].digest
    await registry.blobs.delete(NAME, layer)
    with pytest.raises(BlobUnknown):
        await registry.blobs.stat(NAME, layer)
    result = await restorer.digest(NAME, layer)
    assert (result.layers, result.manifests) == ([layer], [])
    await pull(driver, T1, ONE)


async def test_a_moved_tag_returns_to_what_it_pointed_to(registry: Registry, restorer: Restorer) -> None:
    """A bad deployment is undone in one command, also by the time at which all was well."""
    await registry.push(ONE, T1)
    well = datetime.now(UTC)
    await registry.push(OTHER, T1)
    await registry.history.flush()
    with pytest.raises(RestoreRefused, match="--previous or --at TIME"):
        await restorer.tag(NAME, T1)
    assert (await restorer.tag(NAME, T1, previous=True)).tags == {T1: ONE.digest}
    await registry.push(OTHER, T1)
    assert (await restorer.tag(NAME, T1, at=well)).tags == {T1: ONE.digest}
    assert await registry.state() == {T1: ONE.digest}


@pytest.mark.parametrize("by_time", [False, True])
async def test_tags_of_a_repository_keep_their_order(
    registry: Registry, restorer: Restorer, driver: Driver, by_time: bool
) -> None:
    """Retention keeps the newest tags: a restore must not make others of them."""
    for tag, built in (("z", ONE), ("m", OTHER), ("a", ONE), ("k", OTHER)):
        await registry.push(built, Tag(tag))
    await registry.history.flush()
    at = datetime.now(UTC)
    trash = Trash(driver, keep_s=UNDO_S)
    removal = RepositoryRemoval(driver, NAME, store=BlobStore(driver), links=Links(driver), trash=trash)
    await removal.run(by="root", reason="test")
    result = await restorer.repository(NAME, at=at if by_time else None)
    assert list(result.tags) == ["z", "m", "a", "k"], "in the order in which they were set"


@pytest.mark.parametrize("lost", ["layer", "manifest", "torn", "short"])
async def test_what_was_collected_is_refused_and_nothing_changes(
    registry: Registry, restorer: Restorer, driver: Driver, lost: str
) -> None:
    """A tag that leads to an image with a missing layer is worse than no tag."""
    await registry.push(ONE, T1)
    await registry.manifests.delete(NAME, T1)
    await registry.manifests.delete(NAME, ONE.digest)
    layer = ONE.blobs[0]
    if lost == "layer":
        await driver.delete([layout.blob_data(layer.digest)])
    elif lost == "manifest":
        await driver.delete([layout.blob_data(ONE.digest)])
    elif lost == "torn":
        await driver.write(layout.blob_data(ONE.digest), b"x" * ONE.size)
    else:
        await driver.write(layout.blob_data(layer.digest), layer.data[:-1])
    before = await everything(driver)
    expected = {"torn": "damaged", "short": "has 1023 bytes|bytes, and its manifest"}.get(lost, "is gone")
    for attempt in (restorer.tag(NAME, T1), restorer.digest(NAME, ONE.digest)):
        with pytest.raises(RestoreRefused, match=expected):
            await attempt
    assert await everything(driver) == before


async def test_requests_that_mean_nothing_are_refused(
    registry: Registry, restorer: Restorer, driver: Driver
) -> None:
    """Each with the reason, and what to do instead."""
    long_ago = datetime.now(UTC) - timedelta(days=1)
    await registry.push(ONE, T1)
    await registry.history.flush()
    before = await everything(driver)
    layer = ONE.blobs[0].digest
    for attempt, reason in (
        (restorer.tag(NAME, T2), "nothing is known"),
        (restorer.tag(NAME, T1, at=long_ago), "did not exist at"),
        (restorer.tag(NAME, T1, at=datetime.now(UTC)), "points to .* already"),
        (restorer.tag(NAME, T1, previous=True), "no other manifest"),
        (restorer.digest(NAME, ONE.digest), "no deletion of"),
        (restorer.repository(NAME), "no deletion of the whole repository"),
        (restorer.repository(NAME, at=datetime.now(UTC)), "nothing"),
    ):
        with pytest.raises(RestoreRefused, match=reason):
            await attempt
    assert await everything(driver) == before
    await registry.blobs.delete(NAME, layer)
    await restorer.digest(NAME, layer)
    with pytest.raises(RestoreRefused, match="in library/alpine already"):
        await restorer.digest(NAME, layer)
    await registry.manifests.delete(NAME, ONE.digest)
    await restorer.digest(NAME, ONE.digest)
    with pytest.raises(RestoreRefused, match="in library/alpine already"):
        await restorer.digest(NAME, ONE.digest)


@pytest.mark.parametrize("seed", range(6))
async def test_any_moment_of_a_random_history_is_known_and_comes_back(driver: Driver, seed: int) -> None:
    """The promise of undo: the state of each moment can be restored while nothing has expired."""
    chance = random.Random(seed)
    registry = Registry(driver)
    images = [image(seed=number) for number in range(3)]
    tags = [Tag(f"v{number}") for number in range(3)]
    for built in images:
        await registry.push(built)
    moments: list[tuple[datetime, dict[str, Digest]]] = []
    for _ in range(25):
        built, tag = chance.choice(images), chance.choice(tags)
        action = chance.random()
        try:
            if action < 0.6:
                await registry.push(built, tag)
            elif action < 0.8:
                await registry.manifests.delete(NAME, tag, caller=Caller("eve"))
            else:
                await registry.manifests.delete(NAME, built.digest, caller=Caller("eve"))
        except ManifestUnknown:
            pass
        moments.append((datetime.now(UTC), await registry.state()))
    await registry.history.close()

    for at, state in chance.sample(moments, 4):
        restorer = Restorer(driver, by="root")
        for tag in tags:
            expected, current = state.get(tag), (await registry.state()).get(tag)
            refusal = ""
            try:
                await restorer.tag(NAME, tag, at=at)
            except RestoreRefused as error:
                refusal = str(error)
            assert bool(refusal) == (expected in {None, current}), refusal
        await restorer.close()
        restored = await registry.state()
        assert {tag: restored[tag] for tag in state} == state
    at, state = chance.choice(moments)
    restorer = Restorer(driver, by="root")
    with suppress(RestoreRefused):  # it differs only by tags that are there now, and were not then
        assert not (await restorer.repository(NAME, at=at)).problems
    await restorer.close()
    restored = await registry.state()
    assert {tag: restored[tag] for tag in state} == state
