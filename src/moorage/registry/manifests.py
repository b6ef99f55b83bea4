"""Manifests: checked, stored byte for byte, linked, and only then tagged.

    put     bytes ──► referrer link ──► revision link ──► tag history ──► tag
    delete  mark ──► revision link goes ──► referrer link goes

A tag never points at a manifest that is not whole, whatever crashes: each step is durable before the next.

Deleting by digest does not look for the tags that point at the manifest: a repository may have 100,000 of them,
and design.md forbids a deletion that costs their number.  A tag is alive only while the revision link of its
digest exists; `get` reads both, so removing that one link kills all its tags at once.  What is left to care for:

* Listings must not show dead tags.  The mark `_manifests/_deleted/ALG/HEX`, written before the revision link is
  removed, tells them that there may be some (`tags.py`).
* Pushing the same manifest again must not bring dead tags back to life.  `put` finds the mark and removes
  every tag that still names the digest before the revision link returns; only here the price is their number.

Crashes: after the mark, the manifest is alive and the mark is only a hint.  After the revision link is gone, the
manifest and its tags are gone; its referrer link is dropped by whoever lists referrers, since it names a
manifest that is not there.  During the cleaning of a new push, some dead tags are gone and the mark still
stands, so that the client's next try goes on.

Source: distribution-spec 1.1 "Pushing Manifests", "Deleting Manifests"; reference/http-api.md section 5.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import (
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    PreconditionFailed,
    Unsupported,
)
from moorage.registry import layout, media
from moorage.registry.caches import BoundedCache
from moorage.registry.interface import IfMatch, Manifest, Pushed
from moorage.registry.links import has_link, read_link, resolve, write_link
from moorage.registry.refusals import refusing
from moorage.storage.driver import ABSENT, ALWAYS, Conflict, KeyMissing, ObjectTooLarge
from moorage.types import Digest, Tag

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Sequence

    from moorage.registry.media import Parsed
    from moorage.storage.driver import Driver, Key, When
    from moorage.types import Reference, RepoName

__all__ = ["StoredManifests", "ValidationRules"]

_AT_ONCE: Final = 16
_CACHE_BYTES: Final = 64 << 20
_log: Final = structlog.get_logger("moorage.registry")


@dataclass(frozen=True, slots=True)
class ValidationRules:
    """The `validation` and `policy` sections.

    Without `allow_urls` and `deny_urls` every http(s) URL is taken (the reference then takes none, and fails the
    conformance suite's non-distributable layers).
    `platforms` None: all children of an index must exist; empty: none; else only those of these
    (os, architecture) pairs.  `classes` empty: any kind of image.
    """

    allow_urls: tuple[re.Pattern[str], ...] = ()
    deny_urls: tuple[re.Pattern[str], ...] = ()
    platforms: frozenset[tuple[str, str]] | None = None
    classes: frozenset[str] = frozenset()

    def check(self, parsed: Parsed) -> None:
        """Raises ManifestInvalid or Denied for what the configuration does not allow."""
        for layer in parsed.blobs:
            for url in layer.urls:
                self._check_url(url)
        if (
            self.classes
            and parsed.config_type is not None
            and _image_class(parsed.config_type) not in self.classes
        ):
            raise Denied(f"policy.repository.classes does not allow {parsed.config_type}")

    def _check_url(self, url: str) -> None:
        allowed = not self.allow_urls or any(pattern.search(url) for pattern in self.allow_urls)
        if not allowed or any(pattern.search(url) for pattern in self.deny_urls):
            raise ManifestInvalid(f"validation.manifests.urls does not allow {url}")

    def needs(self, child: media.Child) -> bool:
        return self.platforms is None or (child.platform is not None and child.platform in self.platforms)


def _image_class(config_type: str) -> str:
    """`image` or `plugin` by the config's media type, as the reference decides it; else the type itself."""
    if config_type in {
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    }:
        return "image"
    return "plugin" if config_type == "application/vnd.docker.plugin.v1+json" else config_type


class StoredManifests:
    """See `interface.Manifests`.  Bytes of up to `cache_bytes` stay in memory; links are read each time."""

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        rules: ValidationRules | None = None,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self._driver, self._delete_enabled = driver, delete_enabled
        self._rules = rules or ValidationRules()
        self._cache: BoundedCache[Digest, Manifest] = BoundedCache(cache_bytes)

    async def get(self, name: RepoName, reference: Reference) -> Manifest:
        with refusing():
            digest: Digest | None
            if isinstance(reference, Digest):
                digest = reference
            else:
                digest = await read_link(self._driver, layout.tag_link(name, reference))
            if digest is None or not await has_link(self._driver, layout.revision_link(name, digest)):
                raise ManifestUnknown(str(reference))
            return await self.load(digest)

    async def load(self, digest: Digest) -> Manifest:
        """The manifest's bytes, whoever may see them; proven to be what `digest` says when read from storage.

        Raises ManifestUnknown if they are missing, torn, or of a kind that is not served (schema 1).
        """
        found = self._cache.get(digest)
        if found is not None:
            return found
        try:
            data = (await self._driver.read(layout.blob_data(digest))).data
        except (KeyMissing, ObjectTooLarge) as error:
            raise ManifestUnknown(str(digest)) from error
        if Digest.of(data, digest.algorithm) != digest:
            _log.error("a stored manifest is not what its digest says; it is not served", digest=str(digest))
            raise ManifestUnknown(str(digest))
        try:
            manifest = Manifest(digest, media.parse(data).media_type, data)
        except ManifestInvalid as error:
            raise ManifestUnknown(f"{digest}: it is stored, but {error.subject}") from error
        self._cache.put(digest, manifest, len(data))
        return manifest

    async def put(
        self,
        name: RepoName,
        reference: Reference,
        media_type: str,
        data: bytes,
        *,
        tags: Sequence[Tag] = (),
        condition: IfMatch | None = None,
    ) -> Pushed:
        parsed = media.parse(data, media_type)
        if isinstance(reference, Digest):
            digest = Digest.of(data, reference.algorithm)
            if digest != reference:
                raise DigestInvalid(f"the content is {digest}, not {reference}")
        else:
            digest = Digest.of(data)
            tags = (reference, *tags)
        self._rules.check(parsed)
        with refusing():
            await self._check_references(name, parsed)
            when = await self._condition(name, reference, condition)
            await self._store(name, digest, data, parsed)
            for tag in dict.fromkeys(tags):
                await write_link(self._driver, layout.tag_history_link(name, tag, digest), digest)
                await self._point(name, tag, digest, when if tag == reference else ALWAYS)
        self._cache.put(digest, Manifest(digest, parsed.media_type, data), len(data))
        return Pushed(digest, parsed.subject, tuple(dict.fromkeys(tags)))

    async def _store(self, name: RepoName, digest: Digest, data: bytes, parsed: Parsed) -> None:
        """Bytes, referrer link, revision link: each durable before the next."""
        await self._write_once(digest, data)
        if parsed.subject is not None:
            await write_link(self._driver, layout.referrer_link(name, parsed.subject, digest), digest)
        revision = layout.revision_link(name, digest)
        mark = layout.deleted_mark(name, digest)
        marked = await self._exists(mark)
        if marked and not await has_link(self._driver, revision):
            await self._remove_dead_tags(name, digest)
        await write_link(self._driver, revision, digest)
        if marked:
            await self._driver.delete([mark])

    async def _write_once(self, digest: Digest, data: bytes) -> None:
        """The same bytes may be there already; writing them again costs fsyncs, leaving torn ones costs more."""
        key = layout.blob_data(digest)
        try:
            if (await self._driver.read(key)).data == data:
                return
        except (KeyMissing, ObjectTooLarge):
            pass
        await self._driver.write(key, data)

    async def _exists(self, key: Key) -> bool:
        try:
            await self._driver.stat(key)
        except KeyMissing:
            return False
        return True

    async def _point(self, name: RepoName, tag: Tag, digest: Digest, when: When) -> None:
        try:
            await self._driver.write(layout.tag_link(name, tag), str(digest).encode(), when)
        except Conflict as error:
            raise PreconditionFailed(f"the tag {tag} was moved by another push meanwhile") from error

    async def _condition(self, name: RepoName, reference: Reference, condition: IfMatch | None) -> When:
        """Check If-Match and If-None-Match now; what is returned makes the write of the tag check again."""
        if condition is None or isinstance(reference, Digest):
            return ALWAYS
        found = await resolve(self._driver, layout.tag_link(name, reference))
        current = found[0] if found else None
        if current is not None and not await has_link(self._driver, layout.revision_link(name, current)):
            current = None  # a dead tag
        if not _holds(condition, current):
            raise PreconditionFailed(f"the tag {reference} points at {current or 'nothing'}")
        return found[1] if found else ABSENT

    async def _check_references(self, name: RepoName, parsed: Parsed) -> None:
        """Raises ManifestBlobUnknown naming everything that this repository does not have."""
        blobs = dict.fromkeys(layer.digest for layer in parsed.blobs if not layer.elsewhere)
        children = dict.fromkeys(child.digest for child in parsed.children if self._rules.needs(child))
        limit = asyncio.Semaphore(_AT_ONCE)

        async def missing(digest: Digest, *, child: bool) -> str | None:
            async with limit:
                return None if await self._has(name, digest, child=child) else str(digest)

        found = await asyncio.gather(
            *(missing(digest, child=False) for digest in blobs),
            *(missing(digest, child=True) for digest in children),
        )
        if absent := [digest for digest in found if digest is not None]:
            raise ManifestBlobUnknown(absent)

    async def _has(self, name: RepoName, digest: Digest, *, child: bool) -> bool:
        """Linked here, and its bytes are there.  BuildKit's cache index has blobs as children, so both do."""
        links = [layout.layer_link(name, digest)]
        if child:
            links.insert(0, layout.revision_link(name, digest))
        for link in links:
            stored = await read_link(self._driver, link)
            if stored is not None and await self._exists(layout.blob_data(stored)):
                return True
        return False

    async def delete(self, name: RepoName, reference: Reference) -> None:
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            if isinstance(reference, Digest):
                await self._delete_revision(name, reference)
            else:
                await self._delete_tag(name, reference)

    async def _delete_revision(self, name: RepoName, digest: Digest) -> None:
        link = layout.revision_link(name, digest)
        if not await has_link(self._driver, link):
            raise ManifestUnknown(str(digest))
        await self._driver.write(layout.deleted_mark(name, digest), str(digest).encode())
        await self._driver.delete([link])
        try:
            subject = media.parse((await self.load(digest)).data).subject
        except (ManifestUnknown, ManifestInvalid):
            return  # its bytes are gone or unreadable, so nobody can know its subject
        if subject is not None:
            await self._driver.delete([layout.referrer_link(name, subject, digest)])

    async def _delete_tag(self, name: RepoName, tag: Tag) -> None:
        digest = await read_link(self._driver, layout.tag_link(name, tag))
        alive = digest is not None and await has_link(self._driver, layout.revision_link(name, digest))
        await self._drop_tag(name, tag)
        if not alive:
            raise ManifestUnknown(tag)

    async def _drop_tag(self, name: RepoName, tag: Tag) -> None:
        """The link first: from then on the tag is gone, whatever happens to its history."""
        await self._driver.delete([layout.tag_link(name, tag)])
        await self._driver.clear(layout.tag(name, tag))

    async def _remove_dead_tags(self, name: RepoName, digest: Digest) -> None:
        """Tags that named `digest` when it was deleted, read again right before each is removed."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def consider(tag: Tag) -> None:
            async with limit:
                if await read_link(self._driver, layout.tag_link(name, tag)) == digest:
                    await self._drop_tag(name, tag)

        async for page in self._driver.children(layout.tags(name)):
            for start in range(0, len(page), 1000):
                await asyncio.gather(*(consider(Tag(tag)) for tag in page[start : start + 1000]))


def _holds(condition: IfMatch, current: Digest | None) -> bool:
    def matches(wanted: Iterable[Digest]) -> bool:
        wanted = tuple(wanted)
        return current is not None and (not wanted or current in wanted)

    if condition.match is not None and not matches(condition.match):
        return False
    return condition.none_match is None or not matches(condition.none_match)
