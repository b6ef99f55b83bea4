"""Patterns: `team/*` is one component of a name, `team/**` one or more, `app-*` a part of one.

Anything else stands for itself.  There are no regular expressions: what a pattern grants is read off it, and
matching takes time in proportion to pattern times name, whatever either holds.

The values of a foreign token's claims are matched by the same rule: `*` stops at a slash, `**` does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.errors import NameInvalid
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Glob", "RepositoryPattern"]

_STARS: Final = re.compile(r"(\*+)")
_PLACE: Final = re.compile(r"\{([A-Za-z0-9_.:/-]+)(\|lower)?\}", re.ASCII)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_NAME_PART: Final = re.compile(r"[a-z0-9._/-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Glob:
    """Literal text, and stars between: `parts` are "*", "**" and literals in their order."""

    text: str
    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Glob:
        """Raises ValueError for more than two stars in a row, and for nothing at all."""
        if not text:
            raise ValueError("expected a pattern, found nothing")
        if "***" in text:
            raise ValueError("expected * or **, found more stars in a row")
        return cls(text, tuple(part for part in _STARS.split(text) if part))

    @property
    def is_literal(self) -> bool:
        return "*" not in self.text

    def matches(self, value: str) -> bool:
        """Whether the whole of `value` is what the pattern stands for."""
        if self.is_literal:
            return value == self.text
        ends = {0}
        for part in self.parts:
            ends = _after(part, value, ends)
            if not ends:
                return False
        return len(value) in ends


def _after(part: str, value: str, starts: set[int]) -> set[int]:
    """Where `part` can end in `value` if it begins at one of `starts`."""
    if part == "**":
        return set(range(min(starts), len(value) + 1))
    if part != "*":
        return {start + len(part) for start in starts if value.startswith(part, start)}
    ends: set[int] = set()
    reached = -1
    for start in sorted(starts):
        if start <= reached:  # the run to the next slash was walked already
            continue
        slash = value.find("/", start)
        reached = len(value) if slash < 0 else slash
        ends.update(range(start, reached + 1))
    return ends


@dataclass(frozen=True, slots=True)
class RepositoryPattern:
    """A pattern of repositories' names, maybe with places such as `{user}` that whoever asks fills in.

    `**` must be a whole component, so that `team**` cannot be taken for `team/**`.  A place is filled with what
    may stand there in a repository's name, and never read as a pattern; where it cannot be filled (an anonymous
    has no user name, a name with capitals is in no repository) the pattern matches nothing.
    """

    text: str
    fixed: Glob | None
    """The pattern itself, if it has no places."""

    @classmethod
    def parse(cls, text: str, places: Callable[[str], bool]) -> RepositoryPattern:
        """`places` tells whether a place of that name can be filled.  Raises ValueError."""
        if not text:
            raise ValueError("expected a pattern such as team/** or **, found nothing")
        bare = _PLACE.sub("", text)
        if "{" in bare or "}" in bare:
            raise ValueError("expected the name of what is filled in between { and }")
        for match in _PLACE.finditer(text):
            if not places(match[1]):
                raise ValueError(f"{match[0]} is nothing that can be filled in here")
        for component in _PLACE.sub("x", text).split("/"):
            if not component:
                raise ValueError("expected components joined by single slashes, such as team/**")
            if "**" in component and component != "**":
                raise ValueError("expected ** as a whole component, such as team/**")
        if _NAME_PART.fullmatch(bare.replace("*", "")) is None:
            raise ValueError("no repository has such a name: they are of a-z 0-9 . _ - and /")
        if bare != text:
            return cls(text, None)
        fixed = Glob.parse(text)
        if fixed.is_literal:
            try:
                parse_repo_name(text)
            except NameInvalid:
                raise ValueError("no repository can have this name") from None
        return cls(text, fixed)

    @property
    def is_everything(self) -> bool:
        return self.text == "**"

    @property
    def places(self) -> frozenset[str]:
        return frozenset(match[1] for match in _PLACE.finditer(self.text))

    def glob(self, fill: Callable[[str], str | None]) -> Glob | None:
        """The pattern for whoever `fill` tells the places' values of; None: it matches nothing for them."""
        if self.fixed is not None:
            return self.fixed
        parts: list[str] = []
        position = 0
        for match in _PLACE.finditer(self.text):
            value = fill(match[1])
            if value is not None and match[2]:
                value = value.lower()
            if value is None or not _fills(value, single=match[1] == "user"):
                return None
            parts += [*_STARS.split(self.text[position : match.start()]), value]
            position = match.end()
        parts += _STARS.split(self.text[position:])
        filled = tuple(part for part in parts if part)
        return Glob("".join(filled), filled)


def _fills(value: str, *, single: bool) -> bool:
    """Whether a value can stand in a repository's name: one component of it for a user, else one or more."""
    components = [value] if single else value.split("/")
    return all(_COMPONENT.fullmatch(component) is not None for component in components)
