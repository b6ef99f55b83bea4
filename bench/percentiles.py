"""Percentiles of latency by nearest rank, over every operation of a round.

Below 100 operations the 99th percentile by nearest rank is the slowest operation: reports then show `max_ms`
under its own name (`report.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ENOUGH", "in_ms", "nearest_rank"]

ENOUGH: Final = 100
"""Operations of a round from which on a 99th percentile differs from the maximum."""


def nearest_rank(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest of these ascending numbers that at least `percent` of them do not exceed.

    Raises IndexError if there is none.
    """
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def in_ms(seconds: Iterable[float]) -> dict[str, float]:
    """Return the numbers of a round that describe its latencies, in milliseconds, and how many there were."""
    ordered = sorted(seconds)
    return {
        "p50_ms": nearest_rank(ordered, 50) * 1000,
        "p99_ms": nearest_rank(ordered, 99) * 1000,
        "max_ms": ordered[-1] * 1000,
        "operations": len(ordered),
    }
