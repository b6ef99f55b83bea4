"""Result of a mark: candidates for removal, problems and counts.

Above: `mark.py`.  Below: `packed_sets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from moorage.gc.cache import DigestTable
from moorage.gc.packed_sets import DeadBlobs, DeadHistory, DeadLinks, TagHistoryEntry

if TYPE_CHECKING:
    from moorage.storage.driver import Key, Stat
    from moorage.types import Digest, RepoName

__all__ = ["PROBLEMS_LIMIT", "Counts", "Marked", "SkippedObject", "TagHistoryEntry"]

PROBLEMS_LIMIT = 1_000
"""Problems that are listed; all are counted."""


class SkippedObject(NamedTuple):
    """An object that could not be used, and was kept.  `reason` is a sentence for an operator."""

    key: Key
    reason: str


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
    """Result of one mark: what nothing needs, as candidates for removal.

    Dead links and blobs take few bytes each, by the numbers of `table`: `packed_sets.py`.
    """

    table: DigestTable = field(default_factory=DigestTable)
    blobs: DeadBlobs = field(init=False)
    """Objects below `blobs/`, with their size."""
    stats: dict[Digest, Stat] = field(default_factory=dict)
    """Those that were asked for, as they were found: only these can be removed."""
    layers: DeadLinks = field(init=False)
    """Layer links, with the digest in their path."""
    revisions: DeadLinks = field(init=False)
    """Revision links; only with `delete_untagged`."""
    history: DeadHistory = field(init=False)
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

    def __post_init__(self) -> None:
        self.blobs = DeadBlobs(self.table)
        self.layers = DeadLinks(self.table)
        self.revisions = DeadLinks(self.table)
        self.history = DeadHistory(self.table)

    def note(self, key: Key, reason: str) -> None:
        """Report an object that was kept because it cannot be used."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_LIMIT:
            self.problems.append(SkippedObject(key, reason))
