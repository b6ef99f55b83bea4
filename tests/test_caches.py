"""What a process remembers is bounded, and the most useful part of it stays."""

from __future__ import annotations

from moorage.caches import BoundedCache


def test_what_was_used_last_stays() -> None:
    """A popular manifest must not be pushed out by a walk through rare ones."""
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_weight_is_bounded_whatever_goes_in_and_out() -> None:
    """Else a worker's memory grows until the kernel ends it."""
    cache: BoundedCache[int, bytes] = BoundedCache(100)
    for i in range(50):
        cache.put(i % 7, b"x", weight=30)
        cache.drop(i % 3)
    assert 0 < len(cache) <= 3
    for i in range(3):
        cache.put(100 + i, b"x", weight=33)
    assert [cache.get(100 + i) for i in range(3)] == [b"x"] * 3


def test_replacing_an_entry_counts_it_once() -> None:
    """Re-pushing one manifest over and over must not empty the cache."""
    cache: BoundedCache[str, int] = BoundedCache(10)
    cache.put("other", 0, weight=4)
    for i in range(20):
        cache.put("same", i, weight=6)
    assert (cache.get("same"), cache.get("other")) == (19, 0)


def test_what_is_heavier_than_the_whole_cache_is_not_kept() -> None:
    """It would push out everything and be dropped itself; an older value under its key must go as well."""
    cache: BoundedCache[str, int] = BoundedCache(10)
    cache.put("small", 1, weight=5)
    cache.put("big", 2, weight=3)
    cache.put("big", 3, weight=11)
    assert (cache.get("small"), cache.get("big")) == (1, None)


def test_a_limit_of_zero_remembers_nothing() -> None:
    """`storage.cache` switched off means off."""
    cache: BoundedCache[str, int] = BoundedCache(0)
    cache.put("a", 1)
    assert cache.get("a") is None
    assert len(cache) == 0
