"""Manifests of mirrored repositories.

    by digest   from the store; else from the upstream registry, compared with the digest, and stored
    by tag      fresh ──────────────────────────────────────────────► from the store
                known, to be checked ──► HEAD to the upstream ──┬─ same digest ──► from the store
                                                                ├─ another one ──► fetched, stored, tag set
                                                                ├─ 404 ──► 404, for a while without asking
                                                                └─ no answer, or an error ──► from the store, stale
                unknown ──► GET to the upstream ──► stored, tag set

A check that takes too long continues behind the answer, which is the cached tag.  Concurrent requests for one tag
share a check.  With a new tag its referrers (signatures, SBOMs) are fetched as well, by a task that no request
waits for.

What cannot be stored is served all the same: the store is full, or the manifest is one that cannot be pushed.

Above: `registry.py`.  Below: `upstreams.py`, `checks.py`, `registry/mirrored.py`; `registry/interface.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from moorage.coalescing import SingleFlight
from moorage.errors import ManifestUnknown, RegistryError, UpstreamFailed
from moorage.proxy.blobs import refuse_write
from moorage.proxy.counts import MANIFEST
from moorage.proxy.upstream_errors import as_refusal
from moorage.registry import media
from moorage.registry.interface import UNKNOWN_CALLER, Manifest
from moorage.types import Digest
from moorage.upstream.errors import UpstreamError, UpstreamMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from moorage.proxy.checks import TagChecks
    from moorage.proxy.counts import MirrorCounts
    from moorage.proxy.upstreams import Place, Upstreams
    from moorage.registry.interface import Caller, Deleted, IfMatch, Manifests, Pushed
    from moorage.registry.mirrored import MirroredContent
    from moorage.types import Reference, RepoName, Tag

__all__ = ["MirroredManifests"]

_log: Final = structlog.get_logger("moorage.proxy")


class MirroredManifests:
    """See `interface.Manifests`.  `fetched` is called with each place and manifest that a new tag has led to."""

    def __init__(
        self,
        inner: Manifests,
        upstreams: Upstreams,
        content: MirroredContent,
        checks: TagChecks,
        counts: MirrorCounts,
        *,
        fetched: Callable[[Place, Manifest], None] = lambda *_: None,
    ) -> None:
        self._inner = inner
        self._upstreams = upstreams
        self._content = content
        self._checks = checks
        self._counts = counts
        self._fetched = fetched
        self._tags: SingleFlight[tuple[RepoName, Tag], Manifest] = SingleFlight("checks of tags")
        self._digests: SingleFlight[tuple[RepoName, Digest], Manifest] = SingleFlight("manifests from upstream")

    async def get(
        self,
        name: RepoName,
        reference: Reference,
        *,
        accepts: Callable[[str], bool] | None = None,
        pull: bool = False,
    ) -> Manifest:
        place = self._upstreams.place_of(name)
        if place is None:
            return await self._inner.get(name, reference, accepts=accepts, pull=pull)
        if isinstance(reference, Digest):
            return await self.by_digest(place, reference, pull=pull)
        manifest = await self._by_tag(place, reference, pull=pull)
        if manifest.media_type != media.DOCKER_LIST or accepts is None or accepts(media.DOCKER_LIST):
            return manifest
        digest = media.default_image(manifest.data)
        if digest is None:
            raise ManifestUnknown("it is a manifest list without linux/amd64, and Accept does not name that type")
        return await self.by_digest(place, digest, pull=pull)

    async def by_digest(self, place: Place, digest: Digest, *, pull: bool = False) -> Manifest:
        """Return a manifest from the store, else from the upstream registry.  Raises RegistryError."""
        hit = True
        try:
            found = await self._inner.get(place.local, digest, pull=pull)
        except ManifestUnknown as unknown:
            hit = False
            try:
                found = await self._digests.run((place.local, digest), lambda: self._fetch(place, digest))
            except UpstreamError as error:
                raise as_refusal(error, unknown) from error
            if pull:
                found = await self._noted(place, digest, found)
        if pull:
            self._counts.answered(MANIFEST, len(found.data), hit=hit)
        return found

    async def _noted(self, place: Place, reference: Reference, manifest: Manifest) -> Manifest:
        """Record the pull of a manifest that has been stored a moment ago; return it, also if it could not be."""
        try:
            return await self._inner.get(place.local, reference, pull=True)
        except ManifestUnknown:
            return manifest

    async def _by_tag(self, place: Place, tag: Tag, *, pull: bool) -> Manifest:
        known: Manifest | None = None
        with suppress(ManifestUnknown):
            known = await self._inner.get(place.local, tag, pull=pull)
        found = await self._checked(place, tag, known, pull=pull)
        if pull:
            hit = known is not None and known.digest == found.digest
            self._counts.answered(MANIFEST, len(found.data), hit=hit)
        return found

    async def _checked(self, place: Place, tag: Tag, known: Manifest | None, *, pull: bool) -> Manifest:
        """Return the manifest of a tag; `known` is the cached one."""
        options, local = place.upstream.options, place.local
        if known is None:
            if self._checks.is_absent(local, tag):
                raise ManifestUnknown(f"{tag}: {place.host} does not have it")
        else:
            interval_s = options.check_interval_s
            if interval_s:
                age_s = self._checks.age_s(local, tag, within_s=interval_s)
                if age_s is not None and age_s < interval_s:
                    return known
            if self._checks.is_absent(local, tag):
                raise ManifestUnknown(f"{tag}: {place.host} does not have it any more")
        check = self._tags.run((local, tag), lambda: self._check(place, tag))
        try:
            if known is None:
                found = await check
                return await self._noted(place, tag, found) if pull else found
            async with asyncio.timeout(options.check_timeout_s):
                found = await check
                return known if found.digest == known.digest else found
        except UpstreamMissing as error:
            self._checks.note_absent(local, tag)
            raise ManifestUnknown(f"{tag}: {error}") from error
        except UpstreamError as error:
            if known is None:
                raise as_refusal(error, ManifestUnknown(tag)) from error
            return self._stale(place, tag, known, error)
        except TimeoutError:
            assert known is not None
            return self._stale(place, tag, known, f"no answer within {options.check_timeout_s:g} s")

    def _stale(self, place: Place, tag: Tag, known: Manifest, cause: object) -> Manifest:
        """Return the cached manifest of a tag that cannot be checked.  Raises UpstreamFailed if it is too old."""
        if self._checks.was_absent(place.local, tag):
            raise ManifestUnknown(f"{tag}: {place.host} did not have it any more when it was last asked; {cause}")
        limit_s = place.upstream.options.stale_s
        if limit_s is not None:
            age_s = self._checks.age_s(place.local, tag)
            if age_s is None or age_s > limit_s:
                if isinstance(cause, UpstreamError):
                    raise as_refusal(cause, ManifestUnknown(tag)) from cause
                raise UpstreamFailed(f"{place.host}: {cause}, and the cached tag is too old")
        _log.warning(
            "a cached tag is served without having been checked",
            upstream=place.host, repository=place.local, tag=tag, cause=str(cause),
        )  # fmt: skip
        self._counts.stale += 1
        return replace(known, stale=str(cause))

    async def _check(self, place: Place, tag: Tag) -> Manifest:
        """Compare a tag with the upstream registry, and fetch what it names there.  Raises UpstreamError."""
        local = place.local
        try:
            known = await self._inner.get(local, tag)
        except ManifestUnknown:
            manifest = self._pulled(await place.get_manifest(tag))
        else:
            digest = (await place.stat_manifest(tag)).digest
            if digest == known.digest:
                self._checks.note(local, tag)
                return known
            try:
                manifest = await self._inner.get(local, digest)
            except ManifestUnknown:
                manifest = self._pulled(await place.get_manifest(digest))
        if await self._store(place, manifest, (tag,)):  # else the store has the old tag, which is not fresh
            self._checks.note(local, tag)
        self._fetched(place, manifest)
        return manifest

    async def _fetch(self, place: Place, digest: Digest) -> Manifest:
        manifest = self._pulled(await place.get_manifest(digest))
        await self._store(place, manifest, ())
        return manifest

    def _pulled(self, manifest: Manifest) -> Manifest:
        self._counts.pulled[MANIFEST] += len(manifest.data)
        return manifest

    async def _store(self, place: Place, manifest: Manifest, tags: Sequence[Tag]) -> bool:
        """Store a manifest, and set its tags; return whether it could be stored."""
        try:
            await self._content.store_manifest(place.local, manifest, tags)
        except RegistryError as error:
            _log.error(
                "a manifest from an upstream registry is served without being stored",
                upstream=place.host, repository=place.local, digest=str(manifest.digest), cause=str(error),
            )  # fmt: skip
            return False
        return True

    async def put(
        self,
        name: RepoName,
        reference: Reference,
        media_type: str,
        data: bytes,
        *,
        tags: Sequence[Tag] = (),
        condition: IfMatch | None = None,
        classes: Collection[str] | None = None,
        caller: Caller = UNKNOWN_CALLER,
    ) -> Pushed:
        place = self._upstreams.place_of(name)
        if place is not None:
            raise refuse_write(place)
        return await self._inner.put(
            name, reference, media_type, data, tags=tags, condition=condition, classes=classes, caller=caller
        )

    async def delete(self, name: RepoName, reference: Reference, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        place = self._upstreams.place_of(name)
        if place is not None:
            raise refuse_write(place)
        return await self._inner.delete(name, reference, caller=caller)

    async def close(self) -> None:
        """Cancel what is still asked for."""
        await self._tags.close()
        await self._digests.close()
