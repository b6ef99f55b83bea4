"""Eviction from a pull-through cache: which families of manifests go, by age and by size.

    ttl         a family that was not pulled for `ttl_s`
    size        while the content of an upstream has more than `max_bytes`: the family that was not pulled for the
                longest time, then the next one

A family is what a client pulls as one: an index, its platforms, and what refers to them (`retention/families.py`).
It is used when any of it is pulled, and goes as a whole; what another family contains, too, stays with that one.
Bytes count once for an upstream, and are freed when the last family goes that has them.

A family that was pulled within `idle_s` stays, also above the size: its client may be pulling its blobs, and its
times may not be written yet.  So does one that is pinned.

Pure: no store, no clock.  Memory: about 1 kB for a manifest with its blobs (`docs/mirror.md` has the number).

Above: `wiring/proxy_eviction.py`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moorage.types import RepoName

__all__ = ["CachedContent", "CachedFamily", "Eviction", "EvictionTimes", "MirrorLimits"]

_SHA256_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class MirrorLimits:
    """Limits of what is cached from one upstream, of which `upstream` is the name in the configuration.

    `ttl_s` 0 or less: content does not expire.  `max_bytes` None: of any size.
    """

    upstream: str
    ttl_s: float
    max_bytes: int | None

    @property
    def need_pulls(self) -> bool:
        """Return whether anything is ever evicted, for which the times of pulls have to be recorded."""
        return self.ttl_s > 0 or self.max_bytes is not None


class EvictionTimes(NamedTuple):
    """Times in seconds since 1970.  `since`: when the recording of pulls began, None if that is unknown."""

    now: float
    since: float | None


@dataclass(frozen=True, slots=True)
class CachedFamily:
    """A family of a repository, named by the manifest `root` that contains the others.

    `used`: the time of its last pull, or when it was stored if that is later; `content`: its manifests, and those
    of its blobs that the repository has, with their bytes; `is_pinned`: a hold or an immutable tag keeps it.
    """

    name: RepoName
    root: Digest
    used: float
    content: Mapping[Digest, int]
    is_pinned: bool = False


class Eviction(NamedTuple):
    """A family that goes.  `reason` is a sentence for an operator; `freed_bytes`: of what no other family has."""

    name: RepoName
    root: Digest
    used: float
    reason: str
    freed_bytes: int


class _Family(NamedTuple):
    """A family, packed: its digest as bytes, its content as places in `CachedContent`."""

    used: float
    root: bytes
    name: RepoName
    content: array[int]


class CachedContent:
    """Content that is cached from one upstream, in all repositories."""

    def __init__(self, limits: MirrorLimits, *, idle_s: float) -> None:
        self.limits = limits
        self.total_bytes = 0
        """Bytes of all families, each blob once."""
        self._idle_s = idle_s
        self._families: list[_Family] = []
        self._places: dict[bytes, int] = {}
        self._sizes = array("Q")
        self._users = array("I")

    def add(self, family: CachedFamily) -> None:
        """Add a family, once."""
        content = array("I", (self._place(digest, size) for digest, size in family.content.items()))
        for place in content:
            self._users[place] += 1
        if not family.is_pinned:
            self._families.append(_Family(family.used, _packed(family.root), family.name, content))

    def _place(self, digest: Digest, size: int) -> int:
        key = _packed(digest)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._sizes)
            self._sizes.append(size)
            self._users.append(0)
            self.total_bytes += size
        return place

    def evict(self, times: EvictionTimes) -> Iterator[Eviction]:
        """Yield the families that go, the one that was not pulled for the longest time first.

        `total_bytes` is then what is left.  Without `since` nothing expires, since it is unknown what was pulled;
        the size is kept in the order of the known times all the same.
        """
        limits = self.limits
        limit = limits.max_bytes
        for family in self._idle(times.now):
            # What was pulled before the recording began is unknown: it may have been pulled at that moment.
            idle_s = None if times.since is None else times.now - max(family.used, times.since)
            if limits.ttl_s > 0 and idle_s is not None and idle_s >= limits.ttl_s:
                reason = f"not pulled for {_span(times.now - family.used)}; the ttl is {_span(limits.ttl_s)}"
            elif limit is not None and self.total_bytes > limit:
                reason = (
                    f"not pulled for {_span(times.now - family.used)}, and the content of {limits.upstream} has "
                    f"{self.total_bytes} bytes; the limit is {limit}"
                )
            else:
                # Families are in the order of their times, so none of the others has expired either.
                return
            yield Eviction(family.name, _unpacked(family.root), family.used, reason, self._free(family.content))

    def _idle(self, now: float) -> Iterator[_Family]:
        self._families.sort()
        for family in self._families:
            if now - family.used < self._idle_s:
                return
            yield family

    def _free(self, content: Iterable[int]) -> int:
        """Remove the content of a family; return the bytes that no other one has."""
        freed = 0
        for place in content:
            self._users[place] -= 1
            if not self._users[place]:
                freed += self._sizes[place]
        self.total_bytes -= freed
        return freed


def _packed(digest: Digest) -> bytes:
    return bytes.fromhex(digest.hex)


def _unpacked(raw: bytes) -> Digest:
    return Digest("sha256" if len(raw) == _SHA256_BYTES else "sha512", raw.hex())


def _span(seconds: float) -> str:
    """Return a time for an operator: in days from two days on, else in hours or minutes."""
    hours = int(seconds) // 3600
    if not hours:
        return f"{int(seconds) // 60} min"
    return f"{hours // 24} days" if hours >= 48 else f"{hours} h"  # noqa: PLR2004  two days
