"""Referrers: the manifests of a repository that name another as their subject.

Two sources are united, because registries without this API, and clients of them, kept an index of their own:

* the referrer links, one for each referrer, written when it is pushed (`layout.py`);
* the index under the fallback tag `ALG-HEX` (distribution-spec 1.1 "Referrers Tag Schema").

An entry counts only if its manifest is in the repository and really names the subject.  `rebuild` writes the
links for manifests that an older registry stored.

A listing copies descriptors out of the links (`referrer_links.py`) and parses no manifest.  A referrer without a
descriptor, which another registry or an earlier version stored, is read and parsed once in each process; a read
writes nothing.  The work of one request is bounded for any content; where a bound ends a page, `next` leads
to the rest:

* At most 10,000 referrers are examined: one stat each, and one small read where nothing is remembered.
* No read is begun after 5 MiB.  One that is under way then has at most 4 MiB, or 64 have 16 KiB each.
* Objects above 16 KiB are read one at a time in the whole process, those above 4 KiB parsed beside the event loop.

Source: distribution-spec 1.1 "Listing Referrers".
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import LRUCache
from moorage.concurrency import map_bounded
from moorage.errors import ManifestInvalid, ManifestUnknown
from moorage.registry import layout, media
from moorage.registry.blob_store import BlobStore
from moorage.registry.interface import ReferrersPage
from moorage.registry.links import REVISION, Links
from moorage.registry.offload import Offload
from moorage.registry.referrer_links import PAGE_LIMIT_BYTES, decode, describe, encode
from moorage.registry.storage_errors import refusing
from moorage.registry.walk import RepositoryListing, list_digests, visit_repositories
from moorage.storage.driver import READ_LIMIT_BYTES, KeyMissing, ObjectTooLarge
from moorage.types import Digest, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.registry.interface import Manifest
    from moorage.registry.manifests import StoredManifests
    from moorage.storage.driver import Driver
    from moorage.types import Referrer, RepoName

__all__ = ["REFERRERS_BYTES", "StoredReferrers", "fallback_tag", "rebuild"]

_AT_ONCE: Final = 64
_EXAMINED_LIMIT: Final = 10_000
_SMALL_BYTES: Final = 16 << 10
"""Objects of this size are read concurrently, up to 64; larger ones one after another."""
_INLINE_BYTES: Final = 4 << 10
"""Sixty-four of these are parsed without giving up the event loop: in 0.07 s at most."""
_READ_BYTES: Final = 5 << 20
"""More than a page of descriptors, so that an ordinary page is not cut short."""
_ENTRY_BYTES: Final = 1024
REFERRERS_BYTES: Final = 24 << 20
"""Limit of the caches: two thirds for descriptors, the rest for digests of indexes."""
_TEXT_BYTES: Final = 128
"""Memory of a digest's text."""
_log: Final = structlog.get_logger("moorage.registry")


def fallback_tag(subject: Digest) -> Tag:
    """Return the tag under which clients keep the referrers of `subject` on a registry without this API."""
    return Tag(f"{subject.algorithm[:32]}-{subject.hex[:64]}")


@dataclass(frozen=True, slots=True)
class _Described:
    """Subject and descriptor of a manifest, immutable by its digest; None if it has none."""

    subject: Digest | None = None
    referrer: Referrer | None = None


@dataclass(slots=True)
class _Request:
    """One listing: `linked` are the digest texts that have a link, `read` the bytes read from the store."""

    name: RepoName
    subject: Digest
    linked: set[str] = field(default_factory=set)
    read: int = 0


class StoredReferrers:
    """See `interface.Referrers`.  Descriptors are remembered; that their manifests exist is checked each time."""

    def __init__(self, driver: Driver, manifests: StoredManifests, *, cache_bytes: int = REFERRERS_BYTES) -> None:
        self._driver = driver
        self._manifests = manifests
        self._blobs = BlobStore(driver)
        self._links = Links(driver)
        self.cache: LRUCache[Digest, _Described] = LRUCache(cache_bytes * 2 // 3)
        self._indexes: LRUCache[Digest, tuple[str, ...]] = LRUCache(cache_bytes // 3)
        self._large = asyncio.Lock()
        self._offload = Offload(inline_bytes=_INLINE_BYTES)

    async def list(
        self, name: RepoName, subject: Digest, *, artifact_types: Sequence[str] = (), after: str = ""
    ) -> ReferrersPage:
        request = _Request(name, subject)
        found: list[Referrer] = []
        size, last = -1, after  # a comma less than entries

        async def look(text: str) -> _Described | None:
            return await self._examine(request, Digest.parse(text))

        with refusing():
            candidates, more = await self._candidates(request, after)
            for start in range(0, len(candidates), _AT_ONCE):
                batch = candidates[start : start + _AT_ONCE]
                for text, seen in zip(batch, await map_bounded(batch, look, limit=_AT_ONCE), strict=True):
                    if seen is None and request.read >= _READ_BYTES:
                        return ReferrersPage(tuple(found), last)
                    described = seen or await self._examine_large(request, Digest.parse(text))
                    entry = described.referrer if described.subject == subject else None
                    if entry is not None and (not artifact_types or entry.artifact_type in artifact_types):
                        size += len(entry.descriptor) + 1
                        if size > PAGE_LIMIT_BYTES:
                            return ReferrersPage(tuple(found), last)
                        found.append(entry)
                    last = text
                if request.read >= _READ_BYTES and (more or last != candidates[-1]):
                    return ReferrersPage(tuple(found), last)
        return ReferrersPage(tuple(found), last if more else None)

    async def _candidates(self, request: _Request, after: str) -> tuple[Sequence[str], bool]:
        """Return digest texts after `after` in order, at most `_EXAMINED_LIMIT`, and whether there are more."""
        linked: list[str] = []
        below = layout.referrers_of(request.name, request.subject)
        async with aclosing(list_digests(self._driver, below, after=after)) as pages:
            async for page in pages:
                linked += map(str, page)
                if len(linked) > _EXAMINED_LIMIT:
                    break
        request.linked.update(linked)
        index = await self._fallback_index(request)
        start = bisect_right(index, after)
        found = sorted(request.linked.union(index[start : start + _EXAMINED_LIMIT + 1]))
        return found[:_EXAMINED_LIMIT], len(found) > _EXAMINED_LIMIT

    async def _fallback_index(self, request: _Request) -> Sequence[str]:
        """Return digest texts of the index under the fallback tag, in order."""
        try:
            manifest = await self._manifests.get(request.name, fallback_tag(request.subject))
        except (ManifestUnknown, ManifestInvalid):
            return ()
        if len(manifest.data) <= _SMALL_BYTES:
            return await self._entries(manifest)
        async with self._large:
            return await self._entries(manifest)

    async def _entries(self, manifest: Manifest) -> Sequence[str]:
        known = self._indexes.get(manifest.digest)
        if known is None:
            known = await self._offload.run(len(manifest.data), lambda: _children(manifest.data))
            self._indexes.put(manifest.digest, known, _ENTRY_BYTES + _TEXT_BYTES * len(known))
        return known

    async def _examine(self, request: _Request, digest: Digest) -> _Described | None:
        """Describe a manifest; without content if it is not in the repository, None if that needs a large read."""
        if not await self._links.exists(REVISION, request.name, digest):
            return _Described()
        try:
            return self.cache.get(digest) or await self._describe(request, digest, _SMALL_BYTES)
        except ObjectTooLarge:
            return None

    async def _examine_large(self, request: _Request, digest: Digest) -> _Described:
        async with self._large:
            return self.cache.get(digest) or await self._describe(request, digest, READ_LIMIT_BYTES)

    async def _describe(self, request: _Request, digest: Digest, limit: int) -> _Described:
        """Read a description from the link, else from the manifest.

        Raises ObjectTooLarge above `limit`, if that is a small one.
        """
        referrer = await self._from_link(request, digest, limit)
        if referrer is not None:
            described = _Described(request.subject, referrer)
        else:
            data = await self._manifest(request, digest, limit)
            if data is None:
                return _Described()  # may be repaired
            described = await self._offload.run(len(data), lambda: _from_manifest(digest, data))
        weight = 0 if described.referrer is None else len(described.referrer.descriptor)
        self.cache.put(digest, described, weight + _ENTRY_BYTES)
        return described

    async def _from_link(self, request: _Request, digest: Digest, limit: int) -> Referrer | None:
        if str(digest) not in request.linked:
            return None
        link = layout.referrer_link(request.name, request.subject, digest)
        try:
            content = (await self._driver.read(link, limit=limit)).data
        except KeyMissing:
            return None  # deleted meanwhile
        except ObjectTooLarge:
            if limit < READ_LIMIT_BYTES:
                raise
            return None  # not written by this registry
        request.read += len(content)
        return await self._offload.run(len(content), lambda: decode(content, request.subject, digest))

    async def _manifest(self, request: _Request, digest: Digest, limit: int) -> bytes | None:
        """Return the manifest's bytes, None if they are missing or damaged."""
        try:
            data = await self._blobs.content(digest, limit=limit)
        except KeyMissing:
            return None
        except ObjectTooLarge:
            if limit < READ_LIMIT_BYTES:
                raise
            return None
        request.read += len(data)
        if await self._offload.run(len(data), lambda: Digest.of(data, digest.algorithm)) == digest:
            return data
        _log.error("a manifest is damaged and not listed; pushing it again repairs it", digest=str(digest))
        return None


def _from_manifest(digest: Digest, data: bytes) -> _Described:
    """Describe stored bytes; without content if they are no manifest or have no subject."""
    try:
        parsed = media.stored_description(data)
    except ManifestInvalid:
        return _Described()
    if parsed.subject is None:
        return _Described()
    return _Described(parsed.subject, describe(digest, len(data), parsed))


def _children(data: bytes) -> tuple[str, ...]:
    """Return digest texts of an index's manifests, in order; none if it is no index."""
    try:
        return tuple(sorted({str(child.digest) for child in media.parse(data).children}))
    except ManifestInvalid:
        return ()


async def rebuild(driver: Driver, manifests: StoredManifests, rebuilt: Callable[[RepoName, int], None]) -> None:
    """Write the missing links of every repository, and those without a descriptor; call `rebuilt` with each
    repository and the number of links written to it.

    Safe beside pushes and deletions: a link too many is ignored by listings, which check every entry.  A manifest
    that cannot be read (torn, or schema 1) has no subject that a client could request.
    Raises StorageUnavailable; what was written until then stays.
    """
    links = Links(driver)

    async def visit(repository: RepositoryListing) -> None:
        written = 0

        async def relink(digest: Digest) -> None:
            nonlocal written
            # Not `written += await ...`, which adds to the count as it was before the visits of that time.
            if await links.exists(REVISION, repository.name, digest) and await _relink(
                driver, manifests, repository.name, digest
            ):
                written += 1

        await repository.each_manifest(relink)
        rebuilt(repository.name, written)

    await visit_repositories(driver, visit, with_manifests=True)


async def _relink(driver: Driver, manifests: StoredManifests, name: RepoName, digest: Digest) -> bool:
    try:
        data = (await manifests.contents.load(digest)).data
        link = encode(digest, len(data), media.stored_description(data))
    except (ManifestUnknown, ManifestInvalid):
        return False
    if link is None:
        return False
    key = layout.referrer_link(name, link.subject, digest)
    with suppress(KeyMissing, ObjectTooLarge):
        if (await driver.read(key)).data == link.content:
            return False
    await driver.write(key, link.content)
    return True
