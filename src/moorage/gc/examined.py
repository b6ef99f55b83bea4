"""One repository while it is examined: what was found of it so far, and the judgement.

Above: `examination.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.gc.cache import Record
    from moorage.gc.reachability import HistoryEntry, TrashItem, Verdict
    from moorage.gc.repositories import RepositoryNames

__all__ = ["ExaminedRepository"]


@dataclass(slots=True)
class ExaminedRepository:
    """See the module; digests by number."""

    names: RepositoryNames
    record: Record | None
    thorough: bool
    root: str
    watched: dict[str, str | None] = field(default_factory=dict)
    layers: dict[int, None] = field(default_factory=dict)
    aliases: dict[str, int | None] = field(default_factory=dict)
    """Entries below other algorithms than sha256, whose content is read; with their number if it has one."""
    targets: dict[int, int] = field(default_factory=dict)
    revisions: dict[int, float] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    has_tags: bool = False
    has_deleted: bool = False
    """A manifest was deleted, so that the history of a tag may name one that is not there."""
    tags: dict[str, int] = field(default_factory=dict)
    tag_names: Sequence[str] = ()
    tag_times: dict[str, float] = field(default_factory=dict)
    recalled: list[str] = field(default_factory=list)
    """Tags whose link was not read, since it has the time of the last mark."""
    torn_tags: set[str] = field(default_factory=set)
    history: list[HistoryEntry[int]] = field(default_factory=list)
    trash: list[TrashItem[int]] = field(default_factory=list)
    extra: set[int] = field(default_factory=set)
    """Blobs that are needed beside those of manifests: of aliases that cannot be parsed, and of the trash."""
    uploading: bool = False
    uploads: bool = False
    reported: bool = False
    only_sha256: bool = False
    """No layer link is of another algorithm."""
    is_empty: bool = False
    verdict: Verdict[int] | None = None

    @property
    def judged(self) -> Verdict[int]:
        """The verdict, once there is one."""
        assert self.verdict is not None
        return self.verdict

    @property
    def has_nothing(self) -> bool:
        """True if the repository is empty, unless it has a tag."""
        has_entries = self.revisions or self.layers or self.aliases
        return self.names.valid and not (has_entries or self.trash or self.uploads or self.reported)
