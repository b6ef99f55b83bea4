"""Result of a mark: candidates for removal, problems and counts.

Above: `mark.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from moorage.storage.driver import Key, Stat
    from moorage.types import Digest, RepoName, Tag

__all__ = ["PROBLEMS_LIMIT", "Counts", "Marked", "RepositoryCounts", "SkippedObject", "TagHistoryEntry"]

PROBLEMS_LIMIT = 1_000
"""Problems that are listed; all are counted."""


class SkippedObject(NamedTuple):
    """An object that could not be used, and was kept.  `reason` is a sentence for an operator."""

    key: Key
    reason: str


class TagHistoryEntry(NamedTuple):
    """An entry of a tag's history, `tags/TAG/index/ALG/HEX/link`."""

    name: RepoName
    tag: Tag
    digest: Digest


@dataclass(frozen=True, slots=True)
class RepositoryCounts:
    """Links of one repository: those that it has, and those among them that nothing needs."""

    manifests: int = 0
    layers: int = 0
    dead_manifests: int = 0
    dead_layers: int = 0


@dataclass(slots=True)
class Counts:
    """Objects of the whole store.  `blobs` are objects below `blobs/`, of layers, configs and manifests."""

    repositories: int = 0
    manifests: int = 0
    layers: int = 0
    blobs: int = 0
    dead_bytes: int = 0


@dataclass(slots=True)
class Marked:
    """Result of one mark: what nothing needs, as candidates for removal."""

    blobs: dict[Digest, Stat] = field(default_factory=dict)
    """Objects below `blobs/`, with size and time."""
    layers: set[tuple[RepoName, Digest]] = field(default_factory=set)
    """Layer links, with the digest in their path."""
    revisions: set[tuple[RepoName, Digest]] = field(default_factory=set)
    """Revision links; only with `delete_untagged`."""
    history: set[TagHistoryEntry] = field(default_factory=set)
    """Entries of the history of tags beyond what is kept."""
    trash: set[Key] = field(default_factory=set)
    """Entries of the trash that are older than `undo_s`."""
    repositories: set[RepoName] = field(default_factory=set)
    """Repositories without a link, tag, upload or entry of the trash: their directory is removed."""
    problems: list[SkippedObject] = field(default_factory=list)
    """At most `PROBLEMS_LIMIT` of them."""
    problem_count: int = 0
    counts: Counts = field(default_factory=Counts)
    waits: bool = False
    """Content may be kept only until a time; false is no proof that none is."""
    by_repository: dict[RepoName, RepositoryCounts] = field(default_factory=dict)
    """Repositories with anything to remove only."""

    def digests(self) -> set[Digest]:
        """Return every digest that is to be removed anywhere, for the condemned lists."""
        found = set(self.blobs)
        found.update(digest for _, digest in self.layers)
        found.update(digest for _, digest in self.revisions)
        return found

    def note(self, key: Key, reason: str) -> None:
        """Report an object that was kept because it cannot be used."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_LIMIT:
            self.problems.append(SkippedObject(key, reason))
