"""What a copy did, for the summary, and whom it tells meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["CopyReporter", "Tally"]


@dataclass(slots=True)
class Tally:
    """Counts; sizes in bytes.  `present` was at the destination already, `problems` were told one by one."""

    repositories: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    present: int = 0
    present_bytes: int = 0
    links: int = 0
    manifests: int = 0
    tags: int = 0
    kept: int = 0
    problems: int = 0


class CopyReporter(Protocol):
    """Told while the copy goes on; must not block."""

    def planned(self, size: int) -> None:
        """So many bytes more are in the source.  What no repository links is among them."""

    def moved(self, size: int, *, copied: bool) -> None:
        """So many bytes were copied, or found at the destination."""

    def settled(self, tally: Tally) -> None:
        """One more object is done."""

    def problem(self, where: str, text: str) -> None:
        """Something was not copied, which makes the copy incomplete."""

    def note(self, where: str, text: str) -> None:
        """Something was left alone on purpose."""
