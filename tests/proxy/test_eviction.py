"""Decisions on what is evicted from a cache, beside a plain LRU on random histories."""

from __future__ import annotations

import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from moorage.proxy.eviction import CachedContent, CachedFamily, EvictionTimes, MirrorLimits
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOUR, DAY = 3600.0, 86400.0
NOW = 1_800_000_000.0
IDLE_S = 600.0
LONG = EvictionTimes(NOW, NOW - 1000 * DAY)
"""Pulls have been recorded for years."""
APP = RepoName("docker.io/library/app")


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


def family(root: str, ago_s: float, content: Mapping[str, int], *, pinned: bool = False) -> CachedFamily:
    """Return a family that was pulled `ago_s` seconds ago; its manifest has 10 bytes."""
    parts = {digest(root): 10} | {digest(name): size for name, size in content.items()}
    return CachedFamily(APP, digest(root), NOW - ago_s, parts, is_pinned=pinned)


def evicted(
    limits: MirrorLimits, families: Sequence[CachedFamily], times: EvictionTimes = LONG
) -> tuple[list[Digest], int]:
    """Return the roots that go, in order, and the bytes that are left."""
    content = CachedContent(limits, idle_s=IDLE_S)
    for each in families:
        content.add(each)
    return [found.root for found in content.evict(times)], content.total_bytes


def limits(ttl_s: float = 0.0, max_bytes: int | None = None) -> MirrorLimits:
    return MirrorLimits("docker.io", ttl_s, max_bytes)


def test_what_was_not_pulled_for_the_ttl_goes() -> None:
    families = [family("new", HOUR, {}), family("old", 8 * DAY, {"layer": 100}), family("exact", 7 * DAY, {})]
    assert evicted(limits(7 * DAY), families) == ([digest("old"), digest("exact")], 10)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0])
def test_without_limits_nothing_goes(ttl_s: float) -> None:
    """As in CNCF Distribution, where 0 and less switch expiry off."""
    assert evicted(limits(ttl_s), [family("old", 3000 * DAY, {"layer": 1 << 40})])[0] == []
    assert not limits(ttl_s).need_pulls


def test_the_size_counts_each_blob_once_and_frees_it_with_the_last_family() -> None:
    families = [
        family("a", 3 * DAY, {"shared": 1000, "a1": 100}),
        family("b", 2 * DAY, {"shared": 1000, "b1": 100}),
        family("c", 1 * DAY, {"c1": 100}),
    ]
    total = 1000 + 3 * 110
    assert evicted(limits(), families) == ([], total)
    assert evicted(limits(max_bytes=total), families) == ([], total)
    assert evicted(limits(max_bytes=total - 1), families) == ([digest("a")], total - 110)
    assert evicted(limits(max_bytes=total - 111), families) == ([digest("a"), digest("b")], 110)


def test_a_reason_names_the_limit() -> None:
    content = CachedContent(limits(2 * DAY, 50), idle_s=IDLE_S)
    for each in (family("a", 3 * DAY, {}), family("b", DAY, {"layer": 100}), family("c", HOUR, {})):
        content.add(each)
    first, second = content.evict(LONG)
    assert first.reason == "not pulled for 3 days; the ttl is 2 days"
    assert second.reason == ("not pulled for 24 h, and the content of docker.io has 120 bytes; the limit is 50")
    assert (first.freed_bytes, second.freed_bytes) == (10, 110)


def test_what_was_pulled_within_minutes_stays_above_the_size() -> None:
    """Its client may be pulling its blobs."""
    families = [family("a", IDLE_S - 1, {"a1": 100}), family("b", IDLE_S, {"b1": 100})]
    assert evicted(limits(ttl_s=1.0, max_bytes=0), families) == ([digest("b")], 110)


def test_what_is_pinned_stays_and_counts() -> None:
    families = [family("held", 900 * DAY, {"h1": 100}, pinned=True), family("b", DAY, {"b1": 100})]
    assert evicted(limits(DAY, 150), families) == ([digest("b")], 110)


def test_nothing_expires_before_pulls_were_recorded_for_the_ttl() -> None:
    """What was pulled before is unknown, after an update or a time in which no node has served."""
    families = [family("old", 90 * DAY, {"layer": 100}), family("new", DAY, {})]
    assert evicted(limits(7 * DAY), families, EvictionTimes(NOW, NOW - 6 * DAY))[0] == []
    assert evicted(limits(7 * DAY), families, EvictionTimes(NOW, None))[0] == []
    assert evicted(limits(7 * DAY), families, EvictionTimes(NOW, NOW - 7 * DAY))[0] == [digest("old")]
    # The size is kept all the same: a full disk serves no one.
    assert evicted(limits(7 * DAY, 50), families, EvictionTimes(NOW, None))[0] == [digest("old")]


def naive_lru(
    bounds: MirrorLimits, families: Sequence[CachedFamily], times: EvictionTimes
) -> tuple[list[Digest], int]:
    """Evict one after the other, computing everything anew."""
    left = sorted(families, key=lambda each: (each.used, bytes.fromhex(each.root.hex)))
    gone: list[Digest] = []

    def size() -> int:
        return sum({part: size for each in left for part, size in each.content.items()}.values())

    while True:
        candidates = [each for each in left if not each.is_pinned and NOW - each.used >= IDLE_S]
        expired = [
            each
            for each in candidates
            if bounds.ttl_s > 0 and times.since is not None and NOW - max(each.used, times.since) >= bounds.ttl_s
        ]
        if expired:
            victim = expired[0]
        elif candidates and bounds.max_bytes is not None and size() > bounds.max_bytes:
            victim = candidates[0]
        else:
            return gone, size()
        left.remove(victim)
        gone.append(victim.root)


@pytest.mark.parametrize("seed", range(60))
def test_decisions_are_those_of_a_plain_lru(seed: int) -> None:
    chosen = random.Random(seed)
    blobs = {f"blob {number}": chosen.randrange(1, 1000) for number in range(30)}
    families = [
        family(
            f"root {number}",
            chosen.choice([chosen.uniform(0, 2 * IDLE_S), chosen.uniform(0, 30 * DAY), 5 * DAY]),
            {name: blobs[name] for name in chosen.sample(sorted(blobs), chosen.randrange(6))},
            pinned=chosen.random() < 0.1,
        )
        for number in range(chosen.randrange(25))
    ]
    since = chosen.choice([None, NOW - 3 * DAY, NOW - 365 * DAY])
    bounds = limits(chosen.choice([0.0, DAY, 10 * DAY]), chosen.choice([None, 0, 3000, 9000]))
    times = EvictionTimes(NOW, since)
    assert evicted(bounds, families, times) == naive_lru(bounds, families, times)


@pytest.mark.slow
def test_memory_for_many_manifests_is_bounded() -> None:
    """About 1 kB for a manifest with a config and four layers, of which two are its own."""
    count = 10_000

    def many() -> None:
        for number in range(count):
            own = {f"config {number}": 2000, f"layer {number}": 1 << 20, f"last {number}": 1 << 20}
            shared = {f"base {number % 100}": 1 << 24, f"runtime {number % 1000}": 1 << 23}
            content.add(family(f"image {number}", DAY + number, own | shared))

    content = CachedContent(limits(max_bytes=1 << 34), idle_s=IDLE_S)
    Digest.parse.cache_clear()
    tracemalloc.start()
    try:
        many()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / count < 1000
    assert sum(1 for _ in content.evict(LONG)) > count / 2
