"""Referrers: the manifests of a repository that name another as their subject.

Two sources are united, because registries without this API, and clients of them, kept an index of their own:

* our links, one for each referrer, written when it is pushed (`layout.py`);
* the index under the fallback tag `ALG-HEX` (distribution-spec 1.1 "Referrers Tag Schema").

An entry counts only if its manifest is in the repository and really names the subject.  `rebuild` writes the
links for manifests that an older registry stored.

Source: distribution-spec 1.1 "Listing Referrers"; reference/http-api.md section 8.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.errors import ManifestInvalid, ManifestUnknown
from moorage.registry import layout, media
from moorage.registry.caches import BoundedCache
from moorage.registry.links import has_link, read_link, write_link
from moorage.registry.places import digests
from moorage.registry.refusals import refusing
from moorage.registry.repositories import walk
from moorage.registry.slices import each
from moorage.types import Descriptor, Digest, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.registry.interface import Manifest
    from moorage.registry.manifests import StoredManifests
    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = ["StoredReferrers", "fallback_tag", "rebuild"]

_AT_ONCE: Final = 64
_FRAME_BYTES: Final = 128
"""The names of a descriptor's members and the size."""
_ENTRY_BYTES: Final = 1024
_REMEMBERED_BYTES: Final = 16 << 20

_ANSWER_BYTES: Final = (4 << 20) - 4096
"""Clients read an index of at most 4 MiB (oras, containerd); the rest is room for what surrounds the list."""


def fallback_tag(subject: Digest) -> Tag:
    """Where clients keep the referrers of `subject` on a registry without this API."""
    return Tag(f"{subject.algorithm[:32]}-{subject.hex[:64]}")


@dataclass(frozen=True, slots=True)
class _Said:
    """What a manifest says of itself, which its digest makes immutable."""

    subject: Digest | None
    descriptor: Descriptor


class StoredReferrers:
    """See `interface.Referrers`.  What manifests say is remembered; that they are there is asked each time."""

    def __init__(self, driver: Driver, manifests: StoredManifests) -> None:
        self._driver, self._manifests = driver, manifests
        self.cache: BoundedCache[Digest, _Said] = BoundedCache(_REMEMBERED_BYTES)

    async def list(
        self, name: RepoName, subject: Digest, *, artifact_types: Sequence[str] = (), after: str = ""
    ) -> tuple[Sequence[Descriptor], bool]:
        found: list[Descriptor] = []
        size = 0

        async def describe(digest: Digest) -> Descriptor | None:
            return await self._descriptor(name, subject, digest)

        with refusing():
            candidates = {str(digest): digest async for digest in self._candidates(name, subject)}
            waiting = [candidates[text] for text in sorted(candidates) if text > after]
            for start in range(0, len(waiting), _AT_ONCE):
                for descriptor in await each(waiting[start : start + _AT_ONCE], describe, at_once=_AT_ONCE):
                    if descriptor is None or (artifact_types and descriptor.artifact_type not in artifact_types):
                        continue
                    size += _size(descriptor)
                    if size > _ANSWER_BYTES and found:
                        return found, True
                    found.append(descriptor)
        return found, False

    async def _candidates(self, name: RepoName, subject: Digest) -> AsyncIterator[Digest]:
        async for found in digests(self._driver, layout.referrers_of(name, subject)):
            for digest in found:
                yield digest
        try:
            index = media.parse((await self._manifests.get(name, fallback_tag(subject))).data)
        except (ManifestUnknown, ManifestInvalid):
            return
        for child in index.children:
            yield child.digest

    async def _descriptor(self, name: RepoName, subject: Digest, digest: Digest) -> Descriptor | None:
        """None if the manifest is not in the repository, or is not about `subject` after all."""
        if not await has_link(self._driver, layout.revision_link(name, digest)):
            return None
        said = self.cache.get(digest)
        if said is None:
            try:
                said = _said(await self._manifests.load(digest))
            except (ManifestUnknown, ManifestInvalid):
                return None
            self.cache.put(digest, said, _size(said.descriptor) + _ENTRY_BYTES)
        return said.descriptor if said.subject == subject else None


def _said(manifest: Manifest) -> _Said:
    parsed = media.parse(manifest.data)
    descriptor = Descriptor(
        media_type=parsed.media_type,
        digest=manifest.digest,
        size=len(manifest.data),
        artifact_type=parsed.artifact_type,
        annotations=parsed.annotations or None,
    )
    return _Said(parsed.subject, descriptor)


def _size(descriptor: Descriptor) -> int:
    """Bytes of the descriptor in the answer, from above."""
    texts = (descriptor.media_type, str(descriptor.digest), descriptor.artifact_type, descriptor.annotations)
    return len(json.dumps(texts)) + _FRAME_BYTES


async def rebuild(driver: Driver, manifests: StoredManifests) -> AsyncIterator[tuple[RepoName, int]]:
    """Write the missing links of every repository; yields (repository, links written) as it goes.

    Safe beside pushes and deletions: a link too many is ignored by listings, which check every entry.
    What cannot be read as a manifest (torn, or schema 1) has no subject that anybody could ask for.
    Raises StorageUnavailable; what was written until then stays.
    """
    async for name in walk(driver):
        written = 0
        async for digest in _revisions(driver, name):
            written += await _relink(driver, manifests, name, digest)
        yield name, written


async def _relink(driver: Driver, manifests: StoredManifests, name: RepoName, digest: Digest) -> bool:
    try:
        subject = media.parse((await manifests.load(digest)).data).subject
    except (ManifestUnknown, ManifestInvalid):
        return False
    if subject is None:
        return False
    link = layout.referrer_link(name, subject, digest)
    if await read_link(driver, link) == digest:
        return False
    await write_link(driver, link, digest)
    return True


async def _revisions(driver: Driver, name: RepoName) -> AsyncIterator[Digest]:
    async for found in digests(driver, layout.revisions(name)):
        for digest in found:
            if await has_link(driver, layout.revision_link(name, digest)):
                yield digest
