"""Problems of a configuration: each with origin, key, cause and remedy.

Problems are collected, so that one run reports all of them.
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
    """Origin of a value: a file and its line, or the name of a variable (no line).

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
"""Origin of a missing setting."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of the configuration.

    `error` keeps the registry from starting.  `unknown` (a key or variable that is not used), `fault` (CNCF
    Distribution starts with it, and serves no client) and `warning` do not, but `moorage config check` counts the
    first two as errors.
    `meant` is the dotted key that is missing because of this problem; further consequences are not reported.
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
    """The configuration is invalid; `problems` are all of its problems, warnings included."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems if problem.kind == "error"))


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.7) -> str | None:
    """Return the known word most similar to `word`, None if none is as similar as `cutoff` (0 to 1)."""
    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(candidate.lower(), candidate)
    found = difflib.get_close_matches(word.lower(), list(by_fold), n=1, cutoff=cutoff)
    return by_fold[found[0]] if found else None
