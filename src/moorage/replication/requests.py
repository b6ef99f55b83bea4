"""Requests and options of a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.types import Digest

if TYPE_CHECKING:
    from moorage.replication.platforms import ImagePlatform
    from moorage.replication.rate import RateLimit
    from moorage.types import Reference, RepoName, Tag

__all__ = ["CopyRequest", "ReplicationOptions"]


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """An image to copy.

    `target_tag` None: it gets no tag.  `platforms` empty: all.  `mount`: both repositories are of one registry.
    `known_tags`: those of the source's repository, None if they have not been listed.
    """

    source_name: RepoName
    source_reference: Reference
    target_name: RepoName
    target_tag: Tag | None = None
    platforms: tuple[ImagePlatform, ...] = ()
    referrers: bool = True
    mount: bool = False
    known_tags: frozenset[Tag] | None = None

    @property
    def mount_from(self) -> RepoName | None:
        return self.source_name if self.mount and self.source_name != self.target_name else None

    @property
    def source_text(self) -> str:
        """Return `name:tag` or `name@digest`."""
        return _joined(self.source_name, self.source_reference)


@dataclass(frozen=True, slots=True)
class ReplicationOptions:
    """Options of a run.  `recheck`: look up the blobs of images that the target has, too.  `attempts`: of an image
    where a connection or a store fails.
    """

    blobs_at_once: int = 4
    attempts: int = 3
    dry_run: bool = False
    recheck: bool = False
    rate: RateLimit | None = None


def _joined(name: RepoName, reference: Reference) -> str:
    return f"{name}{'@' if isinstance(reference, Digest) else ':'}{reference}"
