"""Patterns of quotas, and how sizes are shown."""

from __future__ import annotations

import pytest

from moorage.quota.limits import covers, format_size
from moorage.types import RepoName


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("team-a", ["team-a", "team-a/x", "team-a/x/y"], ["team-ab", "team", "x/team-a"]),
        ("team-*", ["team-a", "team-b/x"], ["team", "x/team-a"]),
        ("team/*", ["team/a", "team/a/b"], ["team"]),
        ("*", ["a", "a/b/c"], []),
        ("**/cache", ["a/cache", "a/b/cache/x"], ["cache", "a/cached"]),
        ("a.b", ["a.b"], ["a-b"]),
    ],
)
def test_patterns(pattern: str, covered: list[str], not_covered: list[str]) -> None:
    """A pattern that covers a neighbour's repositories charges one team for another."""
    assert [name for name in covered if not covers(pattern, RepoName(name))] == []
    assert [name for name in not_covered if covers(pattern, RepoName(name))] == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        ((10 << 30) - 1, "9.9 GiB"),
        (10 << 30, "10 GiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 60, "5120 PiB"),
    ],
)
def test_sizes_are_rounded_down(size: int, text: str) -> None:
    """A message with 10 GiB of 10 GiB would confuse a user who has space left."""
    assert format_size(size) == text
