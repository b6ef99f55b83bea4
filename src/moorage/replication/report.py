"""Report of a run of `moorage sync`: one row for each image, and totals that decide the exit status."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from moorage.replication.progress import CopyCounts

if TYPE_CHECKING:
    from moorage.types import Digest

__all__ = ["SyncOutcome", "SyncReport", "SyncRow"]


class SyncOutcome(Enum):
    """Result of an image, or of a selection that found none."""

    COPIED = "copied"
    PRESENT = "present"
    """All of it was in the target before."""
    SKIPPED = "skipped"
    """It has none of the platforms that the job selects."""
    MISSING = "missing"
    """The source has no such repository, tag or content."""
    FAILED = "failed"
    NOT_TRIED = "not tried"
    """The job ended before, since its registry fails."""


@dataclass(frozen=True, slots=True)
class SyncRow:
    """One image: `source` and `target` as `registry/name:tag`; `reason` of every outcome but the first two."""

    job: str
    outcome: SyncOutcome
    source: str
    target: str = ""
    digest: Digest | None = None
    before: Digest | None = None
    reason: str = ""
    counts: CopyCounts = field(default_factory=CopyCounts)


@dataclass(slots=True)
class SyncReport:
    """Totals of a run."""

    outcomes: dict[SyncOutcome, int] = field(default_factory=lambda: dict.fromkeys(SyncOutcome, 0))
    counts: CopyCounts = field(default_factory=CopyCounts)

    def add(self, row: SyncRow) -> None:
        self.outcomes[row.outcome] += 1
        self.counts.add(row.counts)

    @property
    def is_complete(self) -> bool:
        """Return whether all that was selected is in the targets."""
        wrong = (SyncOutcome.MISSING, SyncOutcome.FAILED, SyncOutcome.NOT_TRIED)
        return not any(self.outcomes[outcome] for outcome in wrong)
