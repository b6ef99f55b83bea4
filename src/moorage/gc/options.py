"""Options of a collection, and the interface of legal holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from moorage.types import RepoName

__all__ = ["CollectionOptions", "Holds"]


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """Options of one run; durations in seconds."""

    delete_untagged: bool = False
    """Remove manifests that no tag, no index and no subject needs; otherwise every manifest is kept."""
    grace_s: float = 86_400
    """Age below which content is kept, also if nothing needs it."""
    undo_s: float = 604_800
    """Time for which deleted content, and what a moved tag named before, can be restored.  0: not at all."""
    wait_s: float = 600
    """Time between condemning content and removing it."""
    upload_age_s: float = 604_800
    """Age above which an unfinished upload is removed."""
    dry_run: bool = False
    """Remove nothing, and write nothing to the store."""


class Holds(Protocol):
    """Legal holds from the settings."""

    def __call__(self, name: RepoName) -> bool:
        """Return whether nothing of the repository may be removed."""
