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
from typing import TYPE_CHECKING, Final

from moorage.errors import DigestInvalid, ManifestInvalid, ManifestUnknown
from moorage.registry import layout, media
from moorage.registry.links import has_link, read_link, write_link
from moorage.registry.refusals import refusing
from moorage.registry.repositories import walk
from moorage.types import Descriptor, Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from moorage.registry.manifests import StoredManifests
    from moorage.storage.driver import Driver

__all__ = ["StoredReferrers", "fallback_tag", "rebuild"]

_ANSWER_BYTES: Final = (4 << 20) - 4096
"""Clients read an index of at most 4 MiB (oras, containerd); the rest is room for what surrounds the list."""


def fallback_tag(subject: Digest) -> Tag:
    """Where clients keep the referrers of `subject` on a registry without this API."""
    return Tag(f"{subject.algorithm[:32]}-{subject.hex[:64]}")


class StoredReferrers:
    """See `interface.Referrers`."""

    def __init__(self, driver: Driver, manifests: StoredManifests) -> None:
        self._driver, self._manifests = driver, manifests

    async def list(
        self, name: RepoName, subject: Digest, *, artifact_types: Sequence[str] = (), after: str = ""
    ) -> tuple[Sequence[Descriptor], bool]:
        found: list[Descriptor] = []
        size = 0
        with refusing():
            candidates = {str(digest): digest async for digest in self._candidates(name, subject)}
            for text in sorted(text for text in candidates if text > after):
                descriptor = await self._descriptor(name, subject, candidates[text])
                if descriptor is None or (artifact_types and descriptor.artifact_type not in artifact_types):
                    continue
                size += _size(descriptor)
                if size > _ANSWER_BYTES and found:
                    return found, True
                found.append(descriptor)
        return found, False

    async def _candidates(self, name: RepoName, subject: Digest) -> AsyncIterator[Digest]:
        links = layout.referrers_of(name, subject)
        async for algorithms in self._driver.children(links):
            for algorithm in algorithms:
                async for names in self._driver.children(layout.below(links, algorithm)):
                    for encoded in names:
                        try:
                            yield Digest.parse(f"{algorithm}:{encoded}")
                        except DigestInvalid:
                            continue  # not ours
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
        try:
            manifest = await self._manifests.load(digest)
        except ManifestUnknown:
            return None
        parsed = media.parse(manifest.data)
        if parsed.subject != subject:
            return None
        return Descriptor(
            media_type=parsed.media_type,
            digest=digest,
            size=len(manifest.data),
            artifact_type=parsed.artifact_type,
            annotations=parsed.annotations or None,
        )


def _size(descriptor: Descriptor) -> int:
    """Bytes of the descriptor in the answer, from above."""
    fixed = len(descriptor.media_type) + len(str(descriptor.digest)) + len(descriptor.artifact_type or "") + 128
    return fixed + len(json.dumps(descriptor.annotations or {}))


async def rebuild(driver: Driver, manifests: StoredManifests) -> AsyncIterator[tuple[str, int]]:
    """Write the missing links of every repository; yields (repository, links written) as it goes.

    Safe beside pushes and deletions: a link too many is ignored by listings, which check every entry.
    """
    async for name in walk(driver):
        written = 0
        repository = RepoName(name)
        async for digest in _revisions(driver, repository):
            try:
                subject = media.parse((await manifests.load(digest)).data).subject
            except (ManifestUnknown, ManifestInvalid):
                continue  # torn, or schema 1: it has no subject that anybody could ask for
            if subject is not None:
                link = layout.referrer_link(repository, subject, digest)
                if await read_link(driver, link) != digest:
                    await write_link(driver, link, digest)
                    written += 1
        yield name, written


async def _revisions(driver: Driver, name: RepoName) -> AsyncIterator[Digest]:
    async for algorithms in driver.children(layout.revisions(name)):
        for algorithm in algorithms:
            async for names in driver.children(layout.below(layout.revisions(name), algorithm)):
                for encoded in names:
                    try:
                        digest = Digest.parse(f"{algorithm}:{encoded}")
                    except DigestInvalid:
                        continue  # not a revision
                    if await has_link(driver, layout.revision_link(name, digest)):
                        yield digest
