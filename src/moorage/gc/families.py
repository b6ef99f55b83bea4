"""Families of manifests, as removing them needs it: children, subjects, and everything below a rescued manifest.

Above: `sweep.py`.  Below: `registry/media.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moorage.concurrency import map_bounded
from moorage.errors import ManifestInvalid
from moorage.registry import layout, media
from moorage.registry.walk import requests_in_flight
from moorage.storage.driver import KeyMissing, ObjectTooLarge

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from moorage.registry.media import Parsed
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["Families", "Family", "levels"]


class Family(NamedTuple):
    """Manifests that a manifest names: those in an index, and the subject of a referrer."""

    children: tuple[Digest, ...]
    subject: Digest | None


class Families:
    """Reads manifests of one store.  Methods raise StorageUnavailable."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def of(self, digests: Collection[Digest]) -> dict[Digest, Family]:
        """Return the families of manifests; those that cannot be read are left out."""
        ordered = list(digests)

        async def one(digest: Digest) -> Family | None:
            parsed = await self._read(digest)
            if parsed is None:
                return None
            return Family(tuple(child.digest for child in parsed.children), parsed.subject)

        found = await map_bounded(ordered, one, limit=requests_in_flight(self._driver))
        return {digest: family for digest, family in zip(ordered, found, strict=True) if family is not None}

    async def closure(self, digests: Collection[Digest], manifests: Collection[Digest]) -> set[Digest]:
        """Return `digests` with everything that those which are in `manifests` name, directly or not."""
        found = set(digests)
        waiting = [digest for digest in digests if digest in manifests]
        while waiting:
            parsed = await self._read(waiting.pop())
            if parsed is None:
                continue
            named = {layer.digest for layer in parsed.blobs} | {child.digest for child in parsed.children}
            new = named - found
            found |= new
            waiting += [digest for digest in new if digest in manifests]
        return found

    async def _read(self, digest: Digest) -> Parsed | None:
        try:
            return media.parse((await self._driver.read(layout.blob_data(digest))).data)
        except (KeyMissing, ObjectTooLarge, ManifestInvalid):
            return None


def levels(
    revisions: Collection[tuple[RepoName, Digest]], families: Mapping[Digest, Family]
) -> list[list[tuple[RepoName, Digest]]]:
    """Return the revisions in groups: none before an index that lists it, in any repository.

    Bytes that are not those of their digest can list each other in a circle; these are the last group.
    """
    by_digest: dict[Digest, list[tuple[RepoName, Digest]]] = {}
    for name, digest in sorted(revisions):
        by_digest.setdefault(digest, []).append((name, digest))
    parents = dict.fromkeys(by_digest, 0)
    for digest in by_digest:
        for child in families[digest].children if digest in families else ():
            if child in parents:
                parents[child] += 1
    found: list[list[tuple[RepoName, Digest]]] = []
    level = [digest for digest, count in parents.items() if not count]
    while level:
        found.append([link for digest in level for link in by_digest[digest]])
        below: list[Digest] = []
        for digest in level:
            for child in families[digest].children if digest in families else ():
                if child in parents:
                    parents[child] -= 1
                    if not parents[child]:
                        below.append(child)
        level = below
    circle = [link for digest, count in parents.items() if count for link in by_digest[digest]]
    return [*found, circle] if circle else found
