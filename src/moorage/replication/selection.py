"""Repositories and tags that a job of `moorage sync` selects, and their names in the target.

    match: library/*   target: mirror/          library/alpine  ->  mirror/library/alpine
    match: library/alpine   target: base/alpine library/alpine  ->  base/alpine

Above: `sync.py`, `wiring/sync.py`.  Below: `registry/tag_selection.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.registry.tag_selection import TagSelector
from moorage.semver import parse_version
from moorage.types import RepoName, Tag, parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.patterns import Glob
    from moorage.replication.platforms import ImagePlatform

__all__ = ["RepositorySelection", "is_signature_tag", "newest_tags"]

_DIGITS: Final = re.compile(r"([0-9]{1,18})")
_SIGNATURE: Final = re.compile(r"(?:sha256-[a-f0-9]{64}|sha512-[a-f0-9]{64})(?:\.(?:sig|att|sbom))?", re.ASCII)


def is_signature_tag(tag: Tag) -> bool:
    """Return whether a tag belongs to a digest: cosign's signatures, or a list of referrers.

    They are copied with their subjects, never as images of their own.
    """
    return _SIGNATURE.fullmatch(tag) is not None


def newest_tags(tags: Iterable[Tag], count: int) -> list[Tag]:
    """Return the `count` newest by name: versions by their precedence, above other tags by their numbers and text.

    Registries do not report when a tag was pushed.
    """
    return sorted(tags, key=_age_key, reverse=True)[:count]


def _age_key(tag: Tag) -> tuple[object, ...]:
    version = parse_version(tag)
    if version is not None:
        return (1, version.order, tag)
    parts = [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in _DIGITS.split(tag) if part]
    return (0, parts, tag)


@dataclass(frozen=True, slots=True)
class RepositorySelection:
    """An entry of `repositories`.  `newest` None: all selected tags.

    `target` "": the same name; with a slash at its end it is a prefix; else it is the name.
    """

    match: Glob
    tags: TagSelector = field(default_factory=TagSelector)
    newest: int | None = None
    platforms: tuple[ImagePlatform, ...] = ()
    referrers: bool = True
    target: str = ""

    @property
    def named_tags(self) -> frozenset[Tag]:
        """Return the tags that are named without a star; each of them must exist."""
        named = (Tag(glob.text) for glob in self.tags.match if glob.is_literal)
        return frozenset(tag for tag in named if self.tags.selects(tag))

    @property
    def literal_tags(self) -> list[Tag] | None:
        """Return the tags if all of them are named, so that no list is needed; else None."""
        every = self.tags.match and all(glob.is_literal for glob in self.tags.match)
        return sorted(self.named_tags) if every and self.newest is None else None

    def select_tags(self, tags: Iterable[Tag]) -> list[Tag]:
        """Return the selected tags, in byte order."""
        found = [tag for tag in tags if not is_signature_tag(tag) and self.tags.selects(tag)]
        return sorted(found if self.newest is None else newest_tags(found, self.newest))

    def target_name(self, name: RepoName) -> RepoName:
        """Return the name in the target.  Raises NameInvalid if it is too long."""
        if not self.target:
            return name
        return parse_repo_name(f"{self.target}{name}" if self.target.endswith("/") else self.target)
