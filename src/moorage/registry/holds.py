"""Legal holds: content that nothing deletes while an entry of `retention.holds` names it.

A hold names repositories, and in them tags, digests, or everything.  What a held tag or manifest needs (platforms,
layers, signatures, SBOMs) is held with it; only who reads the store can follow that (`protection.py`, and garbage
collection).  A held tag cannot be moved to another manifest either, since the first one would then be held no
more.

Held content is kept by garbage collection and retention, and its deletion by clients is refused with the reason.
LegalHolds are read with the settings: a new one takes effect when the registry has been restarted or reloaded.

Above: `protection.py`, garbage collection, retention.  Below: `moorage/patterns.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from moorage.patterns import Glob
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.types import Reference, RepoName

__all__ = ["NO_HOLDS", "Hold", "LegalHolds", "matches_any"]


def matches_any(patterns: Iterable[Glob], value: str) -> bool:
    """Return whether one of the patterns matches the whole of `value`."""
    return any(pattern.matches(value) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold.  Without `tags` and `digests` it holds everything in the repositories."""

    repositories: tuple[Glob, ...]
    reason: str
    tags: tuple[Glob, ...] = ()
    digests: frozenset[Digest] = frozenset()

    @classmethod
    def parse(
        cls, repositories: Iterable[str], reason: str, *, tags: Iterable[str] = (), digests: Iterable[str] = ()
    ) -> Hold:
        """Return the hold of an entry of checked settings.  Raises ValueError, DigestInvalid."""
        return cls(
            tuple(map(Glob.parse, repositories)),
            reason,
            tuple(map(Glob.parse, tags)),
            frozenset(map(Digest.parse, digests)),
        )

    @property
    def holds_everything(self) -> bool:
        return not self.tags and not self.digests


class LegalHolds:
    """The holds of the settings.  Costs nothing per call without any; what matches a repository is cached."""

    def __init__(self, holds: Sequence[Hold] = ()) -> None:
        self._holds = tuple(holds)
        self._of = lru_cache(maxsize=1000)(self._matching)

    def __bool__(self) -> bool:
        return bool(self._holds)

    def of(self, name: RepoName) -> tuple[Hold, ...]:
        """Return the holds that name the repository."""
        return self._of(name) if self._holds else ()

    def _matching(self, name: RepoName) -> tuple[Hold, ...]:
        return tuple(hold for hold in self._holds if matches_any(hold.repositories, name))

    def holds(self, name: RepoName, reference: Reference) -> str | None:
        """Return the reason why the tag, or the digest of a manifest or blob, is held by itself; else None.

        A digest that is only reached from a held tag or manifest is not recognized here.
        """
        for hold in self.of(name):
            if hold.holds_everything:
                return hold.reason
            if isinstance(reference, Digest):
                if reference in hold.digests:
                    return hold.reason
            elif matches_any(hold.tags, reference):
                return hold.reason
        return None

    def holds_repository(self, name: RepoName) -> str | None:
        """Return the reason why everything in the repository is held; None if it is not."""
        return next((hold.reason for hold in self.of(name) if hold.holds_everything), None)

    def digests(self, name: RepoName) -> frozenset[Digest]:
        """Return the digests that holds name in the repository."""
        return frozenset().union(*(hold.digests for hold in self.of(name)))


NO_HOLDS: Final = LegalHolds()
