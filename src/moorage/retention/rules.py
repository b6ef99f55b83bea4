"""Rules of retention: which tags a rule selects, and on which conditions it keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage.patterns import Glob
from moorage.registry.holds import matches_any
from moorage.registry.protection import UNPROTECTED, Protection
from moorage.registry.tag_selection import TagSelector

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from moorage.types import RepoName

__all__ = ["RetentionPolicy", "TagRule"]


@dataclass(frozen=True, slots=True)
class TagRule:
    """One rule: of the tags that it selects in a repository it keeps those that meet one of its conditions."""

    name: str
    repositories: tuple[Glob, ...]
    tags: TagSelector = field(default_factory=TagSelector)
    keep_last: int | None = None
    pushed_within: timedelta | None = None
    pulled_within: timedelta | None = None
    keep_all: bool = False

    def concerns(self, name: RepoName) -> bool:
        return matches_any(self.repositories, name)


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """All rules.  `untagged_after` None: manifests without a tag stay."""

    rules: tuple[TagRule, ...] = ()
    untagged_after: timedelta | None = None
    untagged_repositories: tuple[Glob, ...] = (Glob.parse("**"),)
    protection: Protection = UNPROTECTED

    @property
    def needs_pulls(self) -> bool:
        """Return whether a rule depends on the times of pulls."""
        return any(rule.pulled_within is not None for rule in self.rules)

    def concerns(self, name: RepoName) -> bool:
        """Return whether anything could be deleted from the repository."""
        if self.protection.holds.holds_repository(name) is not None:
            return False
        return self.deletes_untagged(name) or any(rule.concerns(name) for rule in self.rules)

    def deletes_untagged(self, name: RepoName) -> bool:
        return self.untagged_after is not None and matches_any(self.untagged_repositories, name)

    def unmatched(self, names: Iterable[RepoName]) -> list[tuple[str, str]]:
        """Return the rules and patterns of repositories that match none of `names`."""
        names = list(names)
        patterns = [(f"rule {rule.name}", pattern) for rule in self.rules for pattern in rule.repositories]
        if self.untagged_after is not None:
            patterns += [("untagged", pattern) for pattern in self.untagged_repositories if pattern.text != "**"]
        return [(owner, pattern.text) for owner, pattern in patterns if not any(map(pattern.matches, names))]
