"""One line of the report of `moorage migrate check`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Advice", "Group"]


class Group(Enum):
    """Groups of the report, in its order."""

    KEPT = "kept"
    CHANGED = "changed"
    IGNORED = "ignored"
    REFUSED = "refused"
    TO_DO = "to-do"


@dataclass(frozen=True, slots=True)
class Advice:
    """`kind` is a stable name for scripts; `subject` a key, variable or path; `remedy` "" where none is needed."""

    group: Group
    kind: str
    subject: str
    text: str
    remedy: str = ""

    @property
    def required(self) -> bool:
        """Return whether something must be done before Moorage serves this deployment."""
        return self.group in {Group.REFUSED, Group.TO_DO}
