"""Counters of a mirror, in the words of CNCF Distribution's metrics (`registry_proxy_..._total`).

Above: `registry.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BLOB", "MANIFEST", "MirrorCounts"]

BLOB: Final = "blob"
MANIFEST: Final = "manifest"


def _zeros() -> dict[str, int]:
    return {BLOB: 0, MANIFEST: 0}


@dataclass(slots=True)
class MirrorCounts:
    """Counts since the start of the process, by kind of content.

    `requests` are GETs in mirrored repositories, `hits` those of them that were answered from the store; `pulled`
    are bytes from upstream registries, `pushed` bytes to clients.  `stale`: tags that were served without a check.

    """

    requests: dict[str, int] = field(default_factory=_zeros)
    hits: dict[str, int] = field(default_factory=_zeros)
    pulled: dict[str, int] = field(default_factory=_zeros)
    pushed: dict[str, int] = field(default_factory=_zeros)
    stale: int = 0

    def answered(self, kind: str, size: int, *, hit: bool) -> None:
        """Count a GET with `size` bytes of content."""
        self.requests[kind] += 1
        self.hits[kind] += hit
        self.pushed[kind] += size

    def readings(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Return the values of the metrics, by name and labels."""
        for kind in (BLOB, MANIFEST):
            requests, hits = self.requests[kind], self.hits[kind]
            yield "registry_proxy_requests_total", (kind,), requests
            yield "registry_proxy_hits_total", (kind,), hits
            yield "registry_proxy_misses_total", (kind,), requests - hits
            yield "registry_proxy_pulled_bytes_total", (kind,), self.pulled[kind]
            yield "registry_proxy_pushed_bytes_total", (kind,), self.pushed[kind]
        yield "moorage_mirror_stale_tags_total", (), self.stale
