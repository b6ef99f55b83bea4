"""Eviction beside clients and a collector, and over random histories of a cache."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from tests.fsck.test_damage import kinds as fsck_kinds
from tests.gc.running import AT_ONCE, FakeClock
from tests.gc.running import run as collected
from tests.http.client import Client
from tests.wiring.test_proxy_eviction import ALPINE, DAY, LAYERS, NGINX, Cache, images, limits_of

from moorage.http.app import create_app
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import artifact, blob, image, index
from moorage.types import RepoName, Tag
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from moorage.testing.builders import Built
    from moorage.types import Reference


@pytest.fixture
def cache() -> Cache:
    return Cache(MemoryDriver())


@pytest.mark.parametrize("seed", range(6))
async def test_a_pass_leaves_whole_families_and_the_bytes_that_it_has_planned(cache: Cache, seed: int) -> None:
    """Images that indexes share, in two repositories, pulled in any order; a second pass finds nothing to do."""
    chosen = random.Random(seed)
    parts = [image(chosen.choice(LAYERS), blob(size=500, seed=100 + n), seed=n) for n in range(8)]
    stored: list[tuple[RepoName, Built]] = []
    for number in range(16):
        name = chosen.choice([ALPINE, NGINX])
        shared = chosen.sample(parts, chosen.randrange(1, 4))
        built = index(*shared, annotations={"n": str(number)}) if chosen.random() < 0.6 else shared[0]
        await cache.store(name, built, f"v{number}")
        stored.append((name, built))
        if chosen.random() < 0.3:
            await cache.store(name, artifact("application/vnd.example.sig", subject=built))
        if chosen.random() < 0.7:
            pulled: Reference = Tag(f"v{number}") if chosen.random() < 0.5 else built.digest
            await cache.pull(name, pulled, chosen.uniform(0, 9) * DAY)
    [usage] = (await cache.evict(limits_of(), 10 * DAY)).usage
    limits = limits_of(chosen.choice([0, 6]) * DAY, docker=int(usage.before * chosen.uniform(0.2, 0.8)))
    summary = await cache.evict(limits, 10 * DAY)
    [left] = summary.usage
    assert summary.families
    assert not summary.kept
    assert left.after <= int(left.limits.max_bytes or 0)
    again = await cache.evict(limits, 10 * DAY)
    assert again.families == 0
    assert [found.before for found in again.usage] == ([left.after] if left.after else [])
    assert not await fsck_kinds(cache.driver)
    for name, built in stored:
        [is_left] = await cache.has(name, built)
        if is_left:
            assert all(await cache.has(name, *(part for part in built.closure if part.is_manifest)))


async def test_blobs_of_an_evicted_image_are_served_until_they_are_collected(cache: Cache) -> None:
    """A client that got the manifest a moment before may fetch them, for the wait of the collector at least."""
    built, _, _ = images()
    await cache.store(ALPINE, built, "v1")
    client = Client(
        create_app(make_registry(cache.driver, cache.settings, b"secret"), http_options(cache.settings))
    )
    assert (await client.manifest("v1", ALPINE)).status_code == 200
    assert (await cache.evict(limits_of(7 * DAY), 8 * DAY)).families == 1
    assert (await client.manifest("v1", ALPINE)).status_code == 404
    fetched: list[int] = []

    async def during(seconds: float) -> None:
        if seconds < AT_ONCE.wait_s:
            fetched.extend([(await client.blob(part, ALPINE)).status_code for part in built.blobs])

    await collected(cache.driver, AT_ONCE, clock=FakeClock(during))
    assert len(fetched) > 100
    assert set(fetched) == {200}
    fresh = Client(
        create_app(make_registry(cache.driver, cache.settings, b"secret"), http_options(cache.settings))
    )
    assert (await fresh.blob(built.blobs[0], ALPINE)).status_code == 404
