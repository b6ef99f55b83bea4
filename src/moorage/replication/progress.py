"""Progress of a copy and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from moorage.types import Digest

__all__ = ["CopyCounts", "CopyResult", "ReplicationProgress", "SilentProgress"]


class ReplicationProgress(Protocol):
    """Receives progress while a copy runs; must not block."""

    def planned(self, size: int) -> None:
        """`size` more bytes are to be sent."""

    def moved(self, size: int) -> None:
        """`size` bytes were sent, or turned out not to be needed."""


class SilentProgress:
    """See `ReplicationProgress`: discards it."""

    def planned(self, size: int) -> None: ...

    def moved(self, size: int) -> None: ...


@dataclass(slots=True)
class CopyCounts:
    """Content of a copy; sizes in bytes.  `present` blobs were in the target before, `mounted` ones in another
    repository of it.  In a dry run, what would be copied counts as copied.
    """

    blobs: int = 0
    blob_bytes: int = 0
    present: int = 0
    mounted: int = 0
    manifests: int = 0
    referrers: int = 0

    def add(self, other: CopyCounts) -> None:
        self.blobs += other.blobs
        self.blob_bytes += other.blob_bytes
        self.present += other.present
        self.mounted += other.mounted
        self.manifests += other.manifests
        self.referrers += other.referrers

    @property
    def changed(self) -> bool:
        """Return whether anything was stored."""
        return bool(self.blobs or self.mounted or self.manifests)


@dataclass(slots=True)
class CopyResult:
    """An image that is whole in the target.  `tagged`: its tag was set, from `before` (None: there was none)."""

    digest: Digest
    tagged: bool
    before: Digest | None
    counts: CopyCounts = field(default_factory=CopyCounts)
