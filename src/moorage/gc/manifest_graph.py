"""Graph of stored manifests, read for their removal: edges, descendants, and an order in which parents go first.

Above: `sweep.py`, `work.py`.  Below: `references.py`.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.errors import ManifestInvalid
from moorage.gc.references import references_of, unpacked
from moorage.registry import layout
from moorage.storage.driver import READ_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from moorage.gc.references import RawDigest, References
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["Edges", "ManifestGraph", "topological_levels"]

_READ_AT_ONCE: Final = 100
"""Manifests, which may have 4 MiB each."""


class Edges(NamedTuple):
    """Manifests that a manifest names: those in an index, and the subject of a referrer."""

    children: tuple[Digest, ...]
    subject: Digest | None


class ManifestGraph:
    """The manifests of one store, which are read at each call.  Methods raise StorageUnavailable."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def edges(self, digests: Collection[Digest]) -> dict[Digest, Edges]:
        """Return the edges of manifests; those that cannot be read are left out."""
        return {
            digest: Edges(
                tuple(map(unpacked, found.children)), None if found.subject is None else unpacked(found.subject)
            )
            for digest, found in await self._read(list(digests))
        }

    async def with_descendants(self, digests: Collection[Digest], manifests: Collection[Digest]) -> set[Digest]:
        """Return `digests` with everything that those which are in `manifests` name, directly or not."""
        found = set(digests)
        waiting = [digest for digest in digests if digest in manifests]
        while waiting:
            named: set[Digest] = set()
            for _, references in await self._read(waiting):
                named.update(map(unpacked, (*references.blobs, *references.children)))
            new = named - found
            found |= new
            waiting = [digest for digest in new if digest in manifests]
        return found

    async def named(self, digests: Sequence[Digest]) -> set[RawDigest]:
        """Return the blobs and manifests that manifests name directly."""
        return {raw for _, found in await self._read(digests) for raw in chain(found.blobs, found.children)}

    async def _read(self, digests: Sequence[Digest]) -> list[tuple[Digest, References[RawDigest]]]:
        """Return the references of the manifests that can be read."""
        read: list[tuple[Digest, References[RawDigest]]] = []
        for start in range(0, len(digests), _READ_AT_ONCE):
            part = digests[start : start + _READ_AT_ONCE]
            keys = [layout.blob_data(digest) for digest in part]
            for digest, data in zip(part, await self._driver.bulk.read(keys, limit=READ_LIMIT_BYTES), strict=True):
                with suppress(ManifestInvalid):
                    if data is not None:
                        read.append((digest, references_of(data)))
        return read


def topological_levels(
    revisions: Collection[tuple[RepoName, Digest]], edges: Mapping[Digest, Edges]
) -> list[list[tuple[RepoName, Digest]]]:
    """Return the revisions in groups: none before an index that lists it, in any repository.

    Bytes that are not those of their digest can list each other in a circle; these are the last group.
    """
    by_digest: dict[Digest, list[tuple[RepoName, Digest]]] = {}
    for name, digest in sorted(revisions):
        by_digest.setdefault(digest, []).append((name, digest))
    parents = dict.fromkeys(by_digest, 0)
    for digest in by_digest:
        for child in edges[digest].children if digest in edges else ():
            if child in parents:
                parents[child] += 1
    found: list[list[tuple[RepoName, Digest]]] = []
    level = [digest for digest, count in parents.items() if not count]
    while level:
        found.append([link for digest in level for link in by_digest[digest]])
        below: list[Digest] = []
        for digest in level:
            for child in edges[digest].children if digest in edges else ():
                if child in parents:
                    parents[child] -= 1
                    if not parents[child]:
                        below.append(child)
        level = below
    circle = [link for digest, count in parents.items() if count for link in by_digest[digest]]
    return [*found, circle] if circle else found
