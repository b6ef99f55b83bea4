"""Selection of tags by patterns, regular expressions and ranges of versions.

Above: `retention/rules.py`, `replication/selection.py`.  Below: `moorage/patterns.py`, `moorage/semver.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.patterns import Glob
from moorage.registry.holds import matches_any
from moorage.semver import VersionRange, parse_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.types import Tag

__all__ = ["TagSelector"]


@dataclass(frozen=True, slots=True)
class TagSelector:
    """Conditions that a selected tag meets, all of them; None or empty: no condition."""

    match: tuple[Glob, ...] = ()
    regex: re.Pattern[str] | None = None
    semver: VersionRange | None = None
    exceptions: tuple[Glob, ...] = ()

    @classmethod
    def parse(
        cls, *, match: Iterable[str] = (), regex: str = "", semver: str = "", exceptions: Iterable[str] = ()
    ) -> TagSelector:
        """Return the selector of checked settings.  Raises ValueError, re.error."""
        return cls(
            tuple(map(Glob.parse, match)),
            re.compile(regex) if regex else None,
            VersionRange.parse(semver) if semver else None,
            tuple(map(Glob.parse, exceptions)),
        )

    def selects(self, tag: Tag) -> bool:
        if self.match and not matches_any(self.match, tag):
            return False
        if self.regex is not None and self.regex.fullmatch(tag) is None:
            return False
        if self.semver is not None:
            version = parse_version(tag)
            if version is None or not self.semver.matches(version):
                return False
        return not matches_any(self.exceptions, tag)
