"""Manifests: checked, stored byte for byte, linked, and only then tagged.

    put     bytes ──► referrer link ──► revision link, tag history ──► tag
    delete  mark ──► revision link goes ──► referrer link goes

A tag never points at a manifest that is not whole, whatever crashes: each step is durable before the next.

Deleting by digest does not look for the tags that point at the manifest: a repository may have 100,000 of them,
and no deletion may cost their number.  A tag is alive only while the revision link of its digest exists; `get`
asks for both, so removing that one link kills all its tags at once.  What is left to care for:

* Listings must not show dead tags, so they check each one as `get` does (`tags.py`).
* Pushing the same manifest again must not bring dead tags back to life.  The mark `_manifests/_deleted/ALG/HEX` is
  written before the revision link is removed, and stays as dead tags do.  `put` finds it and turns every
  tag that still names the digest to `NOWHERE` before the revision link returns; only here the price is their
  number.  Tags are turned and not removed, because no store removes a link on condition: a push that runs beside
  may have set that very tag a moment ago, and its client has got a 201.

Which tags are turned: those whose link, still the same when it is overwritten, named the digest while there was
no revision link.  A push writes its tag after the revision link, so such a tag was set before the deletion or
beside it.  One doubt is left, since a version names bytes: another push may have brought the revision link back
and set the tag again in the instant between.  So the revision link is looked for once more, and if it is there
the tag is turned back.  No tag of a finished push is lost (unless this process dies in that instant); at worst
two pushes of a deleted manifest that race leave one of its old tags alive.

Crashes, step by step.  Put: before the revision link there is nothing but bytes, a referrer link that listings
ignore, and a tag's history; before the tag, a manifest without it.  Delete: after the mark, the manifest is
alive and the mark is only a hint; after the revision link, the manifest and its tags are gone, and the referrer
link is ignored, since it names a manifest that is not there.  Put after delete: some dead tags lead nowhere, the
others still name the digest; the mark remains, the revision link does not, so the next attempt continues.

Races: a put that finds the revision link writes it again only on condition that it is still there, so that it
cannot undo a deletion that comes between.  A put and a deletion of one digest both look again after their last
change to the referrer link, so that a living manifest keeps it.

Source: distribution-spec 1.1 "Pushing Manifests", "Deleting Manifests"; docs/reference/http-api.md, section 5.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import BoundedCache
from moorage.concurrency import AT_ONCE, gather_all, map_bounded
from moorage.errors import (
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    PreconditionFailed,
    TagInvalid,
    Unsupported,
)
from moorage.registry import layout, media
from moorage.registry.blob_store import BlobStore, Purpose
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.interface import UNKNOWN_CALLER, Deleted, IfMatch, Manifest, Pushed
from moorage.registry.links import LAYER, REVISION, LinkKind, Links, read_link, resolve
from moorage.registry.offload import Offload
from moorage.registry.referrer_links import encode
from moorage.registry.storage_errors import refuse, refusing
from moorage.registry.unserved_manifests import UnservedManifests
from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    KeyMissing,
    ObjectTooLarge,
    RequestCost,
    StorageError,
    Unchanged,
    Write,
)
from moorage.types import Digest, Tag, parse_tag

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Collection, Iterable, Sequence

    from moorage.registry.interface import Caller
    from moorage.registry.media import Parsed
    from moorage.registry.referrer_links import ReferrerLink
    from moorage.storage.driver import Driver, Key, When
    from moorage.types import Reference, RepoName

__all__ = ["MANIFESTS_BYTES", "NOWHERE", "StoredManifests", "ValidationRules"]

MANIFESTS_BYTES: Final = 64 << 20
_ENTRY_BYTES: Final = 1024
"""What a remembered manifest costs beside its bytes: a million tiny ones must not fill the memory either."""

_PROVEN: Final = 20_000
"""Manifests known to be whole, about 0.5 kB each, so that a list of tags does not read them every time."""

_DAMAGED: Final = 1_000
"""Damaged manifests that were logged: one that is requested all day is worth one line."""

NOWHERE: Final = Digest("sha256", "0" * 64)
"""Where dead tags are turned to: well spelt, so that CNCF Distribution as well answers that it is unknown."""
_TAGS_IN_ONE_STEP: Final = 16
"""Each holds two files open."""
_MISSING_ENOUGH: Final = 100
"""Missing references after which a push is refused without looking up the others."""
_log: Final = structlog.get_logger("moorage.registry")


@dataclass(frozen=True, slots=True)
class ValidationRules:
    """The `validation` and `policy` sections.

    Without `allow_urls` and `deny_urls` every URL is taken that `media.parse` takes (the reference then takes
    none, and fails the conformance suite's non-distributable layers); with either, only http(s) ones that pass.
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
            and media.class_of(parsed.config_type) not in self.classes
        ):
            raise Denied(f"policy.repository.classes does not allow {parsed.config_type}")

    def _check_url(self, url: str) -> None:
        if not self.allow_urls and not self.deny_urls:
            return
        allowed = not self.allow_urls or any(pattern.search(url) for pattern in self.allow_urls)
        denied = any(pattern.search(url) for pattern in self.deny_urls)
        if not allowed or denied or not media.is_web_url(url):
            raise ManifestInvalid(f"validation.manifests.urls does not allow {url[:200]!a}")

    def needs(self, child: media.Child) -> bool:
        return self.platforms is None or (child.platform is not None and child.platform in self.platforms)


class StoredManifests:
    """See `interface.Manifests`.  Bytes of up to `cache_bytes` stay in memory; tags are read each time.

    `tags_at_once` of a repository's tags are read together where all have to be looked at.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        rules: ValidationRules | None = None,
        cache_bytes: int = MANIFESTS_BYTES,
        tags_at_once: int = AT_ONCE,
        store: BlobStore | None = None,
        links: Links | None = None,
        writes: DeduplicatedWrites | None = None,
        unserved: UnservedManifests | None = None,
    ) -> None:
        self._driver, self._delete_enabled = driver, delete_enabled
        self._tags_at_once = tags_at_once
        self._rules = rules or ValidationRules()
        self._lasting = DeduplicatedWrites(driver) if writes is None else writes
        self._links = Links(driver, writes=self._lasting) if links is None else links
        self._blobs = BlobStore(driver, writes=self._lasting) if store is None else store
        self._offload = Offload()
        self.cache: BoundedCache[Digest, Manifest] = BoundedCache(cache_bytes)
        self._proven: BoundedCache[Digest, int] = BoundedCache(_PROVEN)
        self._damaged: BoundedCache[Digest, bool] = BoundedCache(_DAMAGED)
        self._unserved = UnservedManifests(self._blobs) if unserved is None else unserved

    async def get(
        self, name: RepoName, reference: Reference, *, accepts: Callable[[str], bool] | None = None
    ) -> Manifest:
        digest: Digest | None
        try:
            if isinstance(reference, Digest):
                digest = reference
            else:
                digest = await self._links.read(layout.tag_link(name, reference))
            if digest is None or not await self._links.exists_recent(REVISION, name, digest):
                raise ManifestUnknown(str(reference))
            manifest = self.cache.get(digest) or await self._load(digest)
        except StorageError as error:
            refuse(error)
        if accepts is None or manifest.media_type != media.DOCKER_LIST or isinstance(reference, Digest):
            return manifest
        return manifest if accepts(media.DOCKER_LIST) else await self._default_image(name, manifest)

    async def _default_image(self, name: RepoName, manifest: Manifest) -> Manifest:
        """Docker of before 2016 requests a tag without accepting a list: it gets the image for linux/amd64."""
        data = manifest.data
        digest = await self._offload.run(len(data), lambda: media.default_image(data))
        if digest is None:
            raise ManifestUnknown("it is a manifest list without linux/amd64, and Accept does not name that type")
        return await self.get(name, digest)

    async def load(self, digest: Digest) -> Manifest:
        """The manifest's bytes, whoever may see them; proven to be what `digest` says when read from storage.

        Raises ManifestUnknown if they are missing, torn, or of a kind that is not served (schema 1).
        """
        return self.cache.get(digest) or await self._load(digest)

    async def _load(self, digest: Digest) -> Manifest:
        try:
            data = await self._blobs.content(digest)
            actual = await self._offload.run(len(data), lambda: Digest.of(data, digest.algorithm))
            damage = "" if actual == digest else "its bytes are not those of its digest"
        except (KeyMissing, ObjectTooLarge) as error:
            damage = "its bytes are missing" if isinstance(error, KeyMissing) else "its bytes are too many"
        if damage:
            if self._damaged.get(digest) is None:
                self._damaged.put(digest, value=True)
                _log.error(
                    "a manifest is damaged and not served; pushing it again repairs it",
                    digest=str(digest),
                    why=damage,
                )
            raise ManifestUnknown(str(digest))
        try:
            media_type = await self._offload.run(len(data), lambda: media.stored_type(data))
            manifest = Manifest(digest, media_type, data)
        except ManifestInvalid as error:
            raise ManifestUnknown(f"{digest}: it is stored, but {error.subject}") from error
        self.cache.put(digest, manifest, len(data) + _ENTRY_BYTES)
        self._proven.put(digest, len(data))
        return manifest

    async def served(self, digest: Digest) -> bool | None:
        """Return whether `load` would return the manifest, without reading it; None if only `prove` can tell.

        A manifest in memory is served without a look at the store.  One that was proven before and has dropped out
        of the memory is served while the store has as many bytes under its digest.  One that was read and is not
        served is not read again while the object is the same (`unserved_manifests.py`).
        """
        if digest in self.cache:
            return True
        size = self._proven.get(digest)
        if size is None:
            return False if await self._unserved.holds(digest) else None
        stat = await self._blobs.stat(digest)
        if stat is not None and stat.size == size:
            return True
        self._proven.drop(digest)
        return False

    async def prove(self, digest: Digest) -> bool:
        """Return whether `load` returns the manifest, by reading it."""
        began = self._unserved.now()
        try:
            await self.load(digest)
        except ManifestUnknown:
            await self._unserved.note(digest, began)
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
        del caller

        def examine() -> tuple[Parsed, Digest, ReferrerLink | None]:
            parsed = media.parse(data, media_type)
            media.check_class(parsed, classes)
            self._rules.check(parsed)
            digest = Digest.of(data, reference.algorithm if isinstance(reference, Digest) else "sha256")
            return parsed, digest, encode(digest, len(data), parsed)

        parsed, digest, referrer = await self._offload.run(len(data), examine)
        if not isinstance(reference, Digest):
            tags = (reference, *tags)
        elif digest != reference:
            raise DigestInvalid(f"the content is {digest}, not {reference}")
        tags = tuple(dict.fromkeys(tags))
        with refusing():
            await self._check_references(name, parsed)
            await self._condition(name, reference, condition)
            if (
                condition is not None
                or referrer is not None
                or self._driver.request_cost is RequestCost.NETWORK
                or not await self._store_new(name, digest, data, tags)
            ):
                await self._store(name, reference, digest, data, tags, referrer, condition)
        self.cache.put(digest, Manifest(digest, parsed.media_type, data), len(data) + _ENTRY_BYTES)
        return Pushed(digest, parsed.subject, tags, len(data), parsed.media_type)

    async def _store(
        self,
        name: RepoName,
        reference: Reference,
        digest: Digest,
        data: bytes,
        tags: Sequence[Tag],
        referrer: ReferrerLink | None,
        condition: IfMatch | None,
    ) -> None:
        """Bytes, links and tags, each step of its own; see the module docstring."""
        await self._blobs.write(digest, data)
        link = str(digest).encode()
        history = [layout.tag_history_link(name, tag, digest) for tag in tags]
        await gather_all(self.link(name, digest, referrer), *(self._lasting.ensure(key, link) for key in history))
        when = await self._condition(name, reference, condition)

        async def point(tag: Tag) -> None:
            await self._point(name, tag, digest, when if tag == reference else ALWAYS)

        await map_bounded(tags, point)

    async def _store_new(self, name: RepoName, digest: Digest, data: bytes, tags: Sequence[Tag]) -> bool:
        """Store a manifest that the repository does not have in one step of the driver, in the same order.

        Return False where `_store` has to do it: the repository has the manifest, or had it and deleted it, or one
        of the two happens meanwhile.  What is stored by then, `_store` finds.
        """
        revision, mark = layout.revision_link(name, digest), layout.deleted_mark(name, digest)
        if len(tags) > _TAGS_IN_ONE_STEP or await self._exists(revision) or await self._exists(mark):
            return False
        link = str(digest).encode()
        groups = [
            [self._blobs.as_write(digest, data)],
            [
                Write(revision, link, ABSENT, unless=mark),
                *(Write(layout.tag_history_link(name, tag, digest), link) for tag in tags),
            ],
            [Write(layout.tag_link(name, tag), link) for tag in tags],
        ]
        try:
            await self._lasting.write_ordered([group for group in groups if group])
        except Conflict:
            return False
        return True

    async def link(self, name: RepoName, digest: Digest, referrer: ReferrerLink | None) -> None:
        """Make a manifest whose bytes are stored one of the repository: the referrer link, then the revision link.

        Nothing is checked.  For `put`, and for tools that have checked by themselves (`moving/`, `checking/`).
        """
        if referrer is None:
            await self._revise(name, digest)
            return
        key = layout.referrer_link(name, referrer.subject, digest)
        await self._lasting.ensure(key, referrer.content)
        if await self._revise(name, digest):
            # A deletion of this digest that ran beside may have removed it before it could see the revision.
            await self._lasting.ensure(key, referrer.content)

    async def _revise(self, name: RepoName, digest: Digest) -> bool:
        """Make the revision link exist, without undoing a deletion that runs beside; true if it did not."""
        if await self._links.renew(REVISION, name, digest):
            return False
        if await self._exists(layout.deleted_mark(name, digest)):
            await self._turn_dead_tags(name, digest)
        await self._links.set(REVISION, name, digest)
        return True

    async def _exists(self, key: Key) -> bool:
        try:
            await self._driver.stat(key)
        except KeyMissing:
            return False
        return True

    async def _point(self, name: RepoName, tag: Tag, digest: Digest, when: When) -> None:
        key, data = layout.tag_link(name, tag), str(digest).encode()
        if when is ALWAYS:
            await self._lasting.ensure(key, data)
            return
        try:
            await self._lasting.write(key, data, when)
        except Conflict as error:
            raise PreconditionFailed(f"the tag {tag} was moved by another push meanwhile") from error

    async def _condition(self, name: RepoName, reference: Reference, condition: IfMatch | None) -> When:
        """Check If-Match and If-None-Match now; what is returned makes the write of the tag check again."""
        if condition is None or isinstance(reference, Digest):
            return ALWAYS
        current, when = await resolve(self._driver, layout.tag_link(name, reference))
        if current is not None and not await self._links.exists(REVISION, name, current):
            current = None  # a dead tag
        if not _holds(condition, current):
            raise PreconditionFailed(f"the tag {reference} points at {current or 'nothing'}")
        return when

    async def _check_references(self, name: RepoName, parsed: Parsed) -> None:
        """Raises ManifestBlobUnknown naming what this repository does not have: everything, if it is not much."""
        wanted: dict[tuple[Digest, int | None, bool], None] = {}
        wanted |= dict.fromkeys((layer.digest, layer.size, False) for layer in parsed.blobs if not layer.elsewhere)
        wanted |= dict.fromkeys(
            (child.digest, None, True) for child in parsed.children if self._rules.needs(child)
        )

        async def missing(entry: tuple[Digest, int | None, bool]) -> str | None:
            digest, size, child = entry
            return None if await self._has(name, digest, size, child=child) else str(digest)

        waiting, absent = list(wanted), dict[str, None]()
        while waiting and len(absent) < _MISSING_ENOUGH:
            looked_up, waiting = waiting[:_MISSING_ENOUGH], waiting[_MISSING_ENOUGH:]
            absent |= dict.fromkeys(
                digest for digest in await map_bounded(looked_up, missing) if digest is not None
            )
        if absent:
            raise ManifestBlobUnknown(list(absent), unchecked=len(waiting))

    async def _has(self, name: RepoName, digest: Digest, size: int | None, *, child: bool) -> bool:
        """Return whether it is linked here, and its bytes are there, as many as `size`.

        BuildKit's cache index has blobs as children, so both kinds of links count for one.  Raises
        ManifestInvalid if the blob is whole and has another size.
        """
        for kind in (REVISION, LAYER) if child else (LAYER,):
            stored = await self._links.recent(kind, name, digest)
            if stored is None:
                continue
            found = await self._blobs.rely(stored, Purpose.REFER, expected=size)
            if found is not None and size not in {None, found}:
                found = await self._whole(name, kind, digest, stored)
                if found is not None and found != size:
                    raise ManifestInvalid(
                        f"the descriptor of {digest} has size {size}; the blob has {found} bytes"
                    )
            if found is not None:
                return True
        return False

    async def _whole(self, name: RepoName, kind: LinkKind, digest: Digest, stored: Digest) -> int | None:
        """Return the size of a blob whose bytes are those of its digest, by reading them; else unlink it.

        The link is what every process looks at, so from then on the blob is unknown to clients, and
        upload it again.  An upload publishes the bytes before it writes the link: if another one has replaced them
        by the time the link is gone, the link is written again.
        """
        found = await self._blobs.prove(stored)
        if found is not None:
            return found

        async def is_torn() -> bool:
            nonlocal found
            found = await self._blobs.rely(stored, Purpose.LINK)
            return found is None

        if await self._links.remove(kind, name, digest, stored, confirm=is_torn):
            await self._blobs.forget(stored)  # another process may have shared it meanwhile
        return found

    async def delete(self, name: RepoName, reference: Reference, *, caller: Caller = UNKNOWN_CALLER) -> Deleted:
        del caller
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            if isinstance(reference, Digest):
                await self._delete_revision(name, reference)
                return Deleted(reference)
            return Deleted(await self._delete_tag(name, reference), (reference,))

    async def _delete_revision(self, name: RepoName, digest: Digest) -> None:
        if not await self._links.exists(REVISION, name, digest):
            raise ManifestUnknown(str(digest))
        await self._driver.write(layout.deleted_mark(name, digest), str(digest).encode())

        async def unreferred() -> bool:
            await self._refer_no_more(name, digest)
            self.cache.drop(digest)  # its bytes are read again if another repository has it
            return True

        await self._links.remove(REVISION, name, digest, confirm=unreferred)

    async def _refer_no_more(self, name: RepoName, digest: Digest) -> None:
        """Remove the referrer link of a manifest whose revision link is gone, if it had a subject."""
        try:
            data = (await self.load(digest)).data
            subject = await self._offload.run(len(data), lambda: media.stored_subject(data))
        except (ManifestUnknown, ManifestInvalid):
            return  # its bytes are gone or unreadable, so nobody can know its subject
        if subject is None:
            return
        key = layout.referrer_link(name, subject, digest)
        await self._driver.delete([key])
        if await self._links.exists(REVISION, name, digest):  # pushed again meanwhile
            referrer = await self._offload.run(
                len(data), lambda: encode(digest, len(data), media.stored_description(data))
            )
            if referrer is not None:
                await self._driver.write(key, referrer.content)

    async def _delete_tag(self, name: RepoName, tag: Tag) -> Digest:
        digest = await read_link(self._driver, layout.tag_link(name, tag))
        alive = digest is not None and await self._links.exists(REVISION, name, digest)
        # The link first: from then on the tag is gone, whatever happens to its history.
        await self._driver.delete([layout.tag_link(name, tag)])
        await self._driver.clear(layout.tag(name, tag))
        if digest is None or not alive:
            raise ManifestUnknown(tag)
        return digest

    async def _turn_dead_tags(self, name: RepoName, digest: Digest) -> None:
        """Tags that named `digest` when it was deleted lead nowhere from now on; see the module docstring."""

        async def consider(tag: str) -> None:
            try:
                key = layout.tag_link(name, parse_tag(tag))
            except TagInvalid:
                return  # not ours
            found, when = await resolve(self._driver, key)
            if found != digest or await self._links.exists(REVISION, name, digest):
                return
            with suppress(Conflict):
                turned = await self._driver.write(key, str(NOWHERE).encode(), when)
                if await self._links.exists(REVISION, name, digest):
                    await self._driver.write(key, str(digest).encode(), Unchanged(turned))

        async for page in self._driver.children(layout.tags(name)):
            await map_bounded(page, consider, at_once=self._tags_at_once)


def _holds(condition: IfMatch, current: Digest | None) -> bool:
    def matches(wanted: Iterable[Digest]) -> bool:
        wanted = tuple(wanted)
        return current is not None and (not wanted or current in wanted)

    if condition.match is not None and not matches(condition.match):
        return False
    return condition.none_match is None or not matches(condition.none_match)
