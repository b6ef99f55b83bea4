"""Report of a collection run, as objects and bytes, and its JSON form.

`as_json` is stable: members are added, never renamed or removed while `version` is 1.

    version        1
    run            token of the run
    dry_run        nothing was removed, and nothing written
    outcome        "finished", "interrupted", "paused", "incomplete" (see `reason`; the next run continues)
    reason         a sentence for an operator; "" if the run finished
    resumed        the run continued one that was interrupted
    seconds        duration
    freeable       objects and bytes of what nothing needs, by the first mark
    waiting        objects and bytes that nothing needs once the times of grace and undo have passed, beside
                   `freeable`, those of pushes in progress among them; null unless `dry_run`
    freed          those that were removed
    kept           objects that were condemned and became needed, or were requested, before their removal
    quarantined    objects of an earlier run whose removal may still arrive; they are kept until it cannot
    removed        number of removed `manifests` and `layers` (links), `history` (entries of tags, and
                   objects with old changes of tags), `trash`
                   (expired records), `uploads`, `repositories` (empty ones)
    unlinked       objects and bytes of `freeable` that no repository links: of pushes that died, or erased links
    repositories   by name: `manifests`, `layers`, and `bytes` of the dead blobs that these linked; a blob that
                   several repositories linked counts in each
    problems       objects that were skipped: `key`, `reason`; at most 1000, `problem_count` has all
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from moorage.gc.mark import Marked, SkippedObject
    from moorage.types import RepoName

__all__ = ["FINISHED", "INCOMPLETE", "INTERRUPTED", "PAUSED", "Report", "RepositoryReport", "Volume"]

FINISHED: Final = "finished"
INTERRUPTED: Final = "interrupted"
PAUSED: Final = "paused"
INCOMPLETE: Final = "incomplete"


@dataclass(slots=True)
class Volume:
    """A number of objects below `blobs/`, and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class RepositoryReport:
    """Links of one repository that are, or were, to be removed, and the bytes of the dead blobs they name."""

    manifests: int = 0
    layers: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Report:
    """Result of `collect`; the module documents each member."""

    token: str
    dry_run: bool = False
    outcome: str = FINISHED
    reason: str = ""
    resumed: bool = False
    seconds: float = 0.0
    freeable: Volume = field(default_factory=Volume)
    waiting: Volume | None = None
    waits: bool = False
    unlinked: Volume = field(default_factory=Volume)
    freed: Volume = field(default_factory=Volume)
    kept: int = 0
    quarantined: int = 0
    manifests: int = 0
    layers: int = 0
    history: int = 0
    trash: int = 0
    uploads: int = 0
    removed_repositories: int = 0
    repositories: dict[RepoName, RepositoryReport] = field(default_factory=dict)
    problems: list[SkippedObject] = field(default_factory=list)
    problem_count: int = 0

    def note_marked(self, marked: Marked) -> None:
        """Set what the first mark found."""
        blobs = marked.blobs
        self.freeable = Volume(len(blobs), blobs.total())
        self.waits = marked.waits
        self.problems = marked.problems
        self.problem_count = marked.problem_count
        self.repositories = {}
        linked = bytearray(len(marked.table))
        for links, is_manifest in ((marked.revisions, True), (marked.layers, False)):
            for name, numbers in links.repositories().items():
                found = self.repositories.setdefault(name, RepositoryReport())
                if is_manifest:
                    found.manifests += len(numbers)
                else:
                    found.layers += len(numbers)
                for number in numbers:
                    linked[number] = 1
                    found.bytes += blobs.size(number) or 0
        self.unlinked = Volume()
        for number, size in blobs.sizes():
            if not linked[number]:
                self.unlinked.add(size)

    def note_waiting(self, marked: Marked, later: Marked) -> None:
        """Set what a mark without times has found beside the first."""
        self.waiting = Volume()
        for number, size in later.blobs.sizes():
            if not marked.blobs.has(later.table.digest(number)):
                self.waiting.add(size)

    def as_json(self) -> dict[str, Any]:  # Any: a JSON document
        """Return the stable form that `moorage garbage-collect --json` prints."""
        waiting = self.waiting and {"objects": self.waiting.objects, "bytes": self.waiting.bytes}
        return {
            "version": 1,
            "run": self.token,
            "dry_run": self.dry_run,
            "outcome": self.outcome,
            "reason": self.reason,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "freeable": {"objects": self.freeable.objects, "bytes": self.freeable.bytes},
            "waiting": waiting,
            "freed": {"objects": self.freed.objects, "bytes": self.freed.bytes},
            "unlinked": {"objects": self.unlinked.objects, "bytes": self.unlinked.bytes},
            "kept": self.kept,
            "quarantined": self.quarantined,
            "removed": {
                "manifests": self.manifests,
                "layers": self.layers,
                "history": self.history,
                "trash": self.trash,
                "uploads": self.uploads,
                "repositories": self.removed_repositories,
            },
            "repositories": {
                name: {"manifests": found.manifests, "layers": found.layers, "bytes": found.bytes}
                for name, found in sorted(self.repositories.items())
            },
            "problems": [{"key": problem.key, "reason": problem.reason} for problem in self.problems],
            "problem_count": self.problem_count,
        }
