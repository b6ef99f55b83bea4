"""Limits of quotas, and the repositories that they cover."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorage.types import RepoName

__all__ = ["Limit", "covers", "format_size"]

_KIBI: Final = 1024
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True, slots=True)
class Limit:
    """A rule of `quota.rules`: at most `bytes` and `tags` for all repositories of a pattern; None: any number."""

    pattern: str
    bytes: int | None = None
    tags: int | None = None


@lru_cache(maxsize=1024)
def _regex(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    translated = {"**": ".*", "*": "[^/]*"}
    text = "".join(translated.get(part) or re.escape(part) for part in parts if part)
    return re.compile(rf"{text}(?:/.*)?", re.ASCII)


def covers(pattern: str, name: RepoName) -> bool:
    """Return whether a pattern covers a repository: it matches the name, or the beginning of it up to a slash."""
    return _regex(pattern).fullmatch(name) is not None


def format_size(size: int, *, up: bool = False) -> str:
    """Return a size in bytes as `9.9 GiB`; rounded down, so that what is not full never looks full.

    `up`: rounded up, so that what does not fit never looks as if it fitted.
    """
    if size < _KIBI:
        return f"{size} B"
    value, unit = size * 10, 0
    while value >= _KIBI * 10 and unit < len(_UNITS) - 1:
        value = -(-value // _KIBI) if up else value // _KIBI
        unit += 1
    return f"{value // 10}.{value % 10} {_UNITS[unit]}".replace(".0 ", " ")
