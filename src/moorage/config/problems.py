"""What is wrong with a configuration, said so that the operator knows where to look and what to write.

Problems are collected: whoever has three mistakes hears of three, not of the first one.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moorage.redaction import in_text

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NOWHERE", "ConfigError", "Origin", "Problem", "nearest"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: a file and its line, or the name of a variable (no line).

    `hidden`: messages do not show the value, which may be a secret.
    """

    source: str
    line: int | None = None
    hidden: bool = False

    def __str__(self) -> str:
        if self.line is None:
            return self.source
        return f"{self.source}:{self.line}"


NOWHERE = Origin("")
"""The origin of what nobody wrote: a setting that is missing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend.

    `error` keeps the registry from starting.  `unknown` (a key or variable that nothing reads), `fault` (CNCF
    Distribution starts with it, and serves no client) and `warning` do not, but `moorage config check` counts the
    first two as errors.
    `meant` is the dotted key that is missing because of this problem; what its absence leads to is not reported.
    """

    message: str
    key: str = ""
    origin: Origin = NOWHERE
    kind: Literal["error", "unknown", "fault", "warning"] = "error"
    nearest: str | None = None
    meant: str = ""

    def __str__(self) -> str:
        parts = [str(self.origin), self.key, in_text(self.message)]
        hint = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return ": ".join(part for part in parts if part) + hint


class ConfigError(Exception):
    """The configuration cannot be used; `problems` are all that is wrong, warnings included."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems if problem.kind == "error"))


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.7) -> str | None:
    """The known word that `word` was most likely meant to be, None if none is as close as `cutoff` (0 to 1)."""
    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(candidate.lower(), candidate)
    found = difflib.get_close_matches(word.lower(), list(by_fold), n=1, cutoff=cutoff)
    return by_fold[found[0]] if found else None
