"""LRU and TTL caches: bounded, and the most recently used entries stay."""

from __future__ import annotations

from moorage.caches import LRUCache, TTLCache


def test_the_least_recently_used_entry_is_evicted() -> None:
    """A popular manifest must not be pushed out by a walk through rare ones."""
    cache: LRUCache[str, int] = LRUCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_the_total_weight_is_bounded() -> None:
    """Else a worker's memory grows until the kernel ends it."""
    cache: LRUCache[int, bytes] = LRUCache(100)
    for i in range(50):
        cache.put(i % 7, b"x", weight=30)
        cache.drop(i % 3)
    assert 0 < len(cache) <= 3
    for i in range(3):
        cache.put(100 + i, b"x", weight=33)
    assert [cache.get(100 + i) for i in range(3)] == [b"x"] * 3


def test_replacing_an_entry_counts_it_once() -> None:
    """Re-pushing one manifest over and over must not empty the cache."""
    cache: LRUCache[str, int] = LRUCache(10)
    cache.put("other", 0, weight=4)
    for i in range(20):
        cache.put("same", i, weight=6)
    assert (cache.get("same"), cache.get("other")) == (19, 0)


def test_a_value_heavier_than_the_limit_is_not_stored() -> None:
    """It would evict all others and itself; an older value under its key would be stale."""
    cache: LRUCache[str, int] = LRUCache(10)
    cache.put("small", 1, weight=5)
    cache.put("big", 2, weight=3)
    cache.put("big", 3, weight=11)
    assert (cache.get("small"), cache.get("big")) == (1, None)


def test_a_limit_of_zero_disables_the_cache() -> None:
    """`storage.cache` switched off means off."""
    cache: LRUCache[str, int] = LRUCache(0)
    cache.put("a", 1)
    assert cache.get("a") is None
    assert len(cache) == 0


def test_drop_returns_the_value_and_frees_its_weight() -> None:
    """An upload whose objects are unknown after its end is cleaned up with a listing."""
    cache: LRUCache[str, int] = LRUCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert (cache.drop("a"), cache.drop("a")) == (1, None)
    cache.put("c", 3)
    assert list(cache) == ["b", "c"]
    cache.clear()
    cache.put("d", 4, weight=2)
    assert list(cache) == ["d"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_entry_expires_and_counts_as_a_miss() -> None:
    """A password that was changed in another process would still let its owner in."""
    clock = Clock()
    cache: TTLCache[str, int] = TTLCache(10, 300.0, clock=clock)
    cache.put("a", 1)
    clock.now = 299.9
    assert cache.get("a") == 1
    clock.now = 300.0
    assert cache.get("a") is None
    assert len(cache) == 0
    assert (cache.requests, cache.hits) == (2, 1)


def test_an_entry_may_have_an_expiry_of_its_own() -> None:
    """A token is valid until the time in it, not for a time that we choose."""
    clock = Clock()
    cache: TTLCache[str, int] = TTLCache(10, clock=clock)
    cache.put("token", 1, expires_at=60.0)
    cache.put("for ever", 2)
    clock.now = 59.9
    assert cache.get("token") == 1
    clock.now = 1e9
    assert (cache.get("token"), cache.get("for ever")) == (None, 2)


def test_a_lifetime_of_zero_disables_the_cache() -> None:
    """A store that is near is always asked."""
    cache: TTLCache[str, int] = TTLCache(10, 0.0, clock=Clock())
    cache.put("a", 1)
    assert (cache.get("a"), len(cache)) == (None, 0)
