"""Patterns of names: `*` matches within a component, `**` across slashes.

Other characters match themselves.  There are no regular expressions: a pattern can be understood at a glance, and
matching takes time proportional to pattern times name for every input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["STARS", "Glob"]

STARS: Final = re.compile(r"(\*+)")


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern of literal text and stars: `parts` are "*", "**" and literals, in order."""

    text: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Glob:
        """Parse a pattern.  Raises ValueError for more than two stars in a row, and for an empty text."""
        if not text:
            raise ValueError("expected a pattern, found nothing")
        if "***" in text:
            raise ValueError("expected * or **, found more stars in a row")
        return cls(text, tuple(part for part in STARS.split(text) if part))

    @property
    def is_literal(self) -> bool:
        """Return whether the pattern has no stars."""
        return "*" not in self.text

    def matches(self, value: str) -> bool:
        """Return whether the pattern matches the whole of `value`."""
        if self.is_literal:
            return value == self.text
        ends = {0}
        for part in self.parts:
            ends = _after(part, value, ends)
            if not ends:
                return False
        return len(value) in ends


def _after(part: str, value: str, starts: set[int]) -> set[int]:
    """Return the positions where `part` can end in `value` if it begins at one of `starts`."""
    if part == "**":
        return set(range(min(starts), len(value) + 1))
    if part != "*":
        return {start + len(part) for start in starts if value.startswith(part, start)}
    ends: set[int] = set()
    reached = -1
    for start in sorted(starts):
        if start <= reached:  # covered by an earlier start
            continue
        slash = value.find("/", start)
        reached = len(value) if slash < 0 else slash
        ends.update(range(start, reached + 1))
    return ends
