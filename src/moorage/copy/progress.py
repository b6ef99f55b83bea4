"""Totals of a copy, and the interface that receives its progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["CopyReporter", "Tally"]


@dataclass(slots=True)
class Tally:
    """Totals; sizes in bytes.  `present` blobs were at the destination before; each of `problems` was reported."""

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
    """Receives progress and problems while the copy runs; must not block."""

    def planned(self, size: int) -> None:
        """The source has `size` more bytes, including blobs that no repository links."""

    def moved(self, size: int, *, copied: bool) -> None:
        """`size` bytes were copied, or found at the destination."""

    def settled(self, tally: Tally) -> None:
        """One more object is done."""

    def problem(self, where: str, text: str) -> None:
        """Something was not copied, so the copy is incomplete."""

    def note(self, where: str, text: str) -> None:
        """Something was left unchanged by rule."""
