"""Patterns of repository names, in which values of the identity may be filled in (`moorage/patterns.py`).

`team/*` matches one component of a name, `team/**` one or more, `app-*` a part of one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.errors import NameInvalid
from moorage.patterns import STARS, Glob
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RepositoryPattern"]

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z0-9_.:/-]+)(\|lower)?\}", re.ASCII)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_NAME_PART: Final = re.compile(r"[a-z0-9._/-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class RepositoryPattern:
    """A pattern of repository names, possibly with placeholders such as `{user}`, filled in per identity.

    `**` must be a whole component, so that `team**` is not mistaken for `team/**`.  The value of a placeholder
    must be valid in a repository name, and is never interpreted as a pattern; if it is not valid or missing
    (anonymous clients have no user name, repository names have no capitals), the pattern matches nothing.
    """

    text: str
    fixed: Glob | None
    """The parsed pattern, if it has no placeholders."""

    @classmethod
    def parse(cls, text: str, is_placeholder: Callable[[str], bool]) -> RepositoryPattern:
        """Parse a pattern; `is_placeholder` returns whether a name can be filled in.  Raises ValueError."""
        if not text:
            raise ValueError("expected a pattern such as team/** or **, found nothing")
        bare = _PLACEHOLDER.sub("", text)
        if "{" in bare or "}" in bare:
            raise ValueError("expected the name of what is filled in between { and }")
        for match in _PLACEHOLDER.finditer(text):
            if not is_placeholder(match[1]):
                raise ValueError(f"{match[0]} is nothing that can be filled in here")
        for component in _PLACEHOLDER.sub("x", text).split("/"):
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
        """Return whether the pattern matches every repository."""
        return self.text == "**"

    @property
    def placeholders(self) -> frozenset[str]:
        """Return the names of the placeholders."""
        return frozenset(match[1] for match in _PLACEHOLDER.finditer(self.text))

    def glob(self, fill: Callable[[str], str | None]) -> Glob | None:
        """Return the pattern with the values that `fill` returns for placeholders; None if it matches nothing."""
        if self.fixed is not None:
            return self.fixed
        parts: list[str] = []
        position = 0
        for match in _PLACEHOLDER.finditer(self.text):
            value = fill(match[1])
            if value is not None and match[2]:
                value = value.lower()
            if value is None or not _is_valid(value, single=match[1] == "user"):
                return None
            parts += [*STARS.split(self.text[position : match.start()]), value]
            position = match.end()
        parts += STARS.split(self.text[position:])
        filled = tuple(part for part in parts if part)
        return Glob("".join(filled), filled)


def _is_valid(value: str, *, single: bool) -> bool:
    """Return whether a value is valid in a repository name: as one component (`single`), or as one or more."""
    components = [value] if single else value.split("/")
    return all(_COMPONENT.fullmatch(component) is not None for component in components)
