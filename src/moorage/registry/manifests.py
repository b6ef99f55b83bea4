"""Manifests: checked, stored byte for byte, linked, and only then tagged.

    put     bytes ──► referrer link ──► revision link, tag history ──► tag
    delete  trash record ──► mark ──► revision link goes ──► referrer link goes

A tag never points to an incomplete manifest, also after a crash: each step is durable before the next.

Deleting by digest removes one revision link, which makes every tag of the manifest dead at once; `tags.py` has the
care that this takes when the manifest is pushed again.

Crashes, step by step.  Put: before the revision link there is nothing but bytes, a referrer link that listings
ignore, and a tag's history; before the tag, a manifest without it.  Delete: after the mark, the manifest is
alive and the mark is only a hint; after the revision link, the manifest and its tags are gone, and the referrer
link is ignored, since it names a manifest that is not there.  Put after delete: some dead tags lead nowhere, the
others still name the digest; the mark remains, the revision link does not, so the next attempt continues.

Races: a put that finds the revision link writes it again only on condition that it is still there, so that it
cannot undo a deletion that comes between.  A put and a deletion of one digest both read the revision link
again after their last change to the referrer link, so that a living manifest keeps it.

Garbage collection: a push is confirmed before and after its tags are set, or begins again
(`push_confirmation.py`).

Above: `http/manifests.py`.  Below: `blob_store.py`, `links.py`, `tags.py`, `manifest_contents.py`,
`validation.py`, `push_confirmation.py`.
Source: distribution-spec 1.1 "Pushing Manifests", "Deleting Manifests"; docs/reference/http-api.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.concurrency import gather_all, map_bounded
from moorage.errors import (
    DigestInvalid,
    ManifestInvalid,
    ManifestUnknown,
    Unsupported,
)
from moorage.registry import layout, media
from moorage.registry.blob_store import BlobStore
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.deduplicated_writes import DeduplicatedWrites
from moorage.registry.interface import UNKNOWN_CALLER, Deleted, IfMatch, Manifest, Pushed
from moorage.registry.links import REVISION, Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.offload import Offload
from moorage.registry.protection import UNPROTECTED, Protection, ProtectionCheck
from moorage.registry.push_confirmation import PushConfirmation
from moorage.registry.referrer_links import encode
from moorage.registry.storage_errors import refuse, refusing
from moorage.registry.tags import TagStore
from moorage.registry.trash import DELETED_BY_CLIENT
from moorage.registry.validation import ReferenceCheck, ValidationRules
from moorage.storage.driver import ABSENT, ALWAYS, Conflict, RequestCost, StorageError
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from moorage.registry.collection_gate import CollectionSnapshot
    from moorage.registry.history import TagHistory
    from moorage.registry.interface import Caller
    from moorage.registry.media import Parsed
    from moorage.registry.pulls import PullRecorder
    from moorage.registry.referrer_links import ReferrerLink
    from moorage.registry.trash import Trash
    from moorage.registry.validation import NeededContent
    from moorage.storage.driver import Driver, When
    from moorage.types import Reference, RepoName, Tag

__all__ = ["StoredManifests"]

_TAGS_IN_ONE_STEP: Final = 16
"""Each holds two files open."""


@dataclass(slots=True)
class _Push:
    """One PUT."""

    name: RepoName
    reference: Reference
    digest: Digest
    data: bytes
    referrer: ReferrerLink | None
    tags: tuple[Tag, ...]
    condition: IfMatch | None
    confirmation: PushConfirmation


class StoredManifests:
    """See `interface.Manifests`.  Parts that are not given are made for this object alone."""

    def __init__(
        self,
        driver: Driver,
        *,
        delete_enabled: bool = False,
        rules: ValidationRules | None = None,
        store: BlobStore | None = None,
        links: Links | None = None,
        tags: TagStore | None = None,
        contents: ManifestContents | None = None,
        writes: DeduplicatedWrites | None = None,
        protection: Protection = UNPROTECTED,
        pulls: PullRecorder | None = None,
        trash: Trash | None = None,
        history: TagHistory | None = None,
        gate: CollectionGate | None = None,
    ) -> None:
        self._driver = driver
        self._trash = trash
        self._history = history
        self._delete_enabled = delete_enabled
        self._writes = DeduplicatedWrites(driver) if writes is None else writes
        self._blobs = BlobStore(driver, writes=self._writes) if store is None else store
        self._links = Links(driver, writes=self._writes) if links is None else links
        self._tags = (
            TagStore(driver, links=self._links, writes=self._writes, trash=trash) if tags is None else tags
        )
        self._offload = Offload()
        self.contents = ManifestContents(self._blobs, offload=self._offload) if contents is None else contents
        self._rules = rules or ValidationRules()
        self.protected = ProtectionCheck(protection, self._tags, self._links, self.contents)
        self._pulls = pulls
        self.gate = CollectionGate(driver, self._blobs, self._links) if gate is None else gate
        self._references = ReferenceCheck(self._blobs, self._links, self._rules, self.gate)

    async def get(
        self,
        name: RepoName,
        reference: Reference,
        *,
        accepts: Callable[[str], bool] | None = None,
        pull: bool = False,
    ) -> Manifest:
        try:
            begun = self.gate.recent() or await self.gate.begin()
            digest = reference if isinstance(reference, Digest) else await self._tags.resolve(name, reference)
            if digest is None:
                raise ManifestUnknown(str(reference))
            if not begun.in_progress:  # as nearly always
                found = await self._links.exists_recent(REVISION, name, digest)
            else:
                served = pull or not isinstance(reference, Digest)
                found = await self._remains(begun, name, digest, served=served)
            if not found:
                raise ManifestUnknown(str(reference))
            manifest = self.contents.cache.get(digest) or await self.contents.read(digest)
        except StorageError as error:
            refuse(error)
        if pull and self._pulls is not None:
            self._pulls.note(name, reference)
        if manifest.media_type != media.DOCKER_LIST or accepts is None or isinstance(reference, Digest):
            return manifest
        return manifest if accepts(media.DOCKER_LIST) else await self._default_image(name, manifest)

    async def _remains(self, begun: CollectionSnapshot, name: RepoName, digest: Digest, *, served: bool) -> bool:
        """Return whether the repository has a manifest that a garbage collection leaves.

        One that is being removed is `served` as long as it is there.  It counts as absent if a client only asks,
        for a digest, as it would not push it.
        """
        if not begun.in_progress:
            return await self._links.exists_recent(REVISION, name, digest)
        if not await self._links.exists(REVISION, name, digest):
            return False
        if not await self.gate.admits(begun, name, digest) and not served:
            return False
        if not await self._links.exists(REVISION, name, digest):  # the last look, after the rescue
            return False
        if await self._blobs.stat(digest) is None:
            self.contents.drop(digest)
        return True

    async def _default_image(self, name: RepoName, manifest: Manifest) -> Manifest:
        """Docker of before 2016 requests a tag without accepting a list: it gets the image for linux/amd64."""
        data = manifest.data
        digest = await self._offload.run(len(data), lambda: media.default_image(data))
        if digest is None:
            raise ManifestUnknown("it is a manifest list without linux/amd64, and Accept does not name that type")
        with refusing():
            begun = self.gate.recent() or await self.gate.begin()
            if await self._remains(begun, name, digest, served=True):
                return await self.contents.load(digest)
        raise ManifestUnknown(str(digest))

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
        confirmation = PushConfirmation(self.gate, self._tags, name, digest, tags)
        push = _Push(name, reference, digest, data, referrer, tags, condition, confirmation)
        with refusing():
            for tag in self.protected.of(name, tags):
                await self.protected.check_push(name, tag, digest)
            async with confirmation:
                while (begun := await confirmation.next_attempt()) is not None:
                    needed = await self._references.run(name, digest, parsed, begun)
                    await self._condition(name, reference, push.condition)
                    lost: Collection[Digest] | None = needed.doomed or await self._store_new(push, begun, needed)
                    confirmation.lost = await self._store(push, begun, needed) if lost is None else lost
        self.contents.keep(Manifest(digest, parsed.media_type, data))
        if self._history is not None:
            for tag in tags:
                self._history.note(name, tag, digest, by=caller.user)
        return Pushed(digest, parsed.subject, tags, len(data), parsed.media_type)

    async def _store(self, push: _Push, begun: CollectionSnapshot, needed: NeededContent) -> Collection[Digest]:
        """Bytes, links and tags, each in a step of its own; see the module docstring.

        Return what garbage collection is removing, or has removed.
        """
        name, digest = push.name, push.digest
        await self._blobs.write(digest, push.data)
        await gather_all(
            self.link(name, digest, push.referrer),
            push.confirmation.note_tags(),
            *(self._tags.record(name, tag, digest) for tag in push.tags),
        )
        if lost := await push.confirmation.content_lost(begun, needed):
            return lost
        when = await self._condition(name, push.reference, push.condition)

        protected = self.protected.of(name, push.tags)

        async def point(tag: Tag) -> None:
            if tag in protected:
                await self.protected.set_tag(name, tag, digest)
            else:
                await self._tags.set(name, tag, digest, when if tag == push.reference else ALWAYS)

        if not push.tags:
            return ()
        push.confirmation.tags_follow(begun, needed)
        await map_bounded(push.tags, point)
        push.condition = None  # it held: another attempt sets the tags again
        return await push.confirmation.lost_after_tags(begun, needed)

    async def _store_new(
        self, push: _Push, begun: CollectionSnapshot, needed: NeededContent
    ) -> Collection[Digest] | None:
        """Store a manifest that the repository does not have in one step of the driver, in the same order.

        Return what `_store` does, or None where `_store` has to do it: the repository has the manifest, or had it
        and deleted it, or one of the two happens meanwhile.  What is stored by then, `_store` finds.
        """
        name, digest = push.name, push.digest
        if (
            begun.in_progress
            or push.condition is not None
            or push.referrer is not None
            or self.protected.of(name, push.tags)
            or self._driver.request_cost is RequestCost.NETWORK
            or len(push.tags) > _TAGS_IN_ONE_STEP
            or await self._links.exists(REVISION, name, digest)
            or await self._tags.was_deleted(name, digest)
        ):
            return None
        mark = self._tags.deletion_mark(name, digest)
        revision = self._links.as_write(REVISION, name, digest, ABSENT, unless=mark)
        history, pointers = self._tags.as_writes(name, push.tags, digest)
        groups = [[self._blobs.as_write(digest, push.data)], [revision, *history], pointers]
        await push.confirmation.note_tags()
        push.confirmation.tags_follow(begun, needed)
        try:
            await self._writes.write_ordered([group for group in groups if group])
        except Conflict:
            return None
        return await push.confirmation.lost_after_tags(begun, needed)

    async def link(
        self, name: RepoName, digest: Digest, referrer: ReferrerLink | None, *, revive_tags: bool = False
    ) -> None:
        """Make a manifest whose bytes are stored one of the repository: the referrer link, then the revision link.

        Nothing is checked.  For `put`, and for tools that have checked by themselves (`copy/`, `fsck/`,
        `restore.py`).  `revive_tags`: tags that named the manifest when it was deleted lead to it again.
        """
        if referrer is None:
            await self._revise(name, digest, revive_tags=revive_tags)
            return
        key = layout.referrer_link(name, referrer.subject, digest)
        await self._writes.ensure(key, referrer.content)
        if await self._revise(name, digest, revive_tags=revive_tags):
            # A concurrent deletion of this digest may have removed it before it could see the revision.
            await self._writes.ensure(key, referrer.content)

    async def _revise(self, name: RepoName, digest: Digest, *, revive_tags: bool = False) -> bool:
        """Make the revision link exist, without undoing a concurrent deletion; True if it did not."""
        if await self._links.renew(REVISION, name, digest):
            return False
        if not revive_tags:
            await self._tags.unset_dead(name, digest)
        await self._links.set(REVISION, name, digest)
        return True

    async def _condition(self, name: RepoName, reference: Reference, condition: IfMatch | None) -> When:
        """Check If-Match and If-None-Match now; the result makes the write of the tag check again."""
        if condition is None or isinstance(reference, Digest):
            return ALWAYS
        return await self._tags.check(name, reference, condition)

    async def delete(
        self,
        name: RepoName,
        reference: Reference,
        *,
        caller: Caller = UNKNOWN_CALLER,
        reason: str = DELETED_BY_CLIENT,
    ) -> Deleted:
        """See `interface.Manifests`.  `reason` is recorded with what is deleted, for `moorage history`."""
        if not self._delete_enabled:
            raise Unsupported("deletion is switched off; set storage.delete.enabled")
        with refusing():
            if isinstance(reference, Digest):
                await self.protected.check_deletion(name, reference)
                await self._delete_revision(name, reference, caller.user, reason)
                return Deleted(reference)
            await self.protected.check_tag_deletion(name, reference)
            digest = await self._tags.delete(name, reference, by=caller.user, reason=reason)
            if digest is None:
                raise ManifestUnknown(reference)
            if self._history is not None:
                self._history.note(name, reference, None, by=caller.user, reason=reason)
            return Deleted(digest, (reference,))

    async def _delete_revision(self, name: RepoName, digest: Digest, by: str, reason: str) -> None:
        if not await self._links.exists(REVISION, name, digest):
            raise ManifestUnknown(str(digest))
        if self._trash is not None:
            await self._trash.add_manifest(name, digest, by=by, reason=reason)
        await self._tags.mark_deleted(name, digest)
        await self._unlink(name, digest)

    async def evict(self, name: RepoName, digest: Digest) -> None:
        """Remove a manifest of a cache, whose tags are removed, without a trash record and a deletion mark.

        A tag that is set to it meanwhile lives again when the manifest is stored again, as it should: both come
        from the upstream.  And storing it again does not cost a look at every tag.
        """
        with refusing():
            if not await self._links.exists(REVISION, name, digest):
                raise ManifestUnknown(str(digest))
            await self._unlink(name, digest)

    async def _unlink(self, name: RepoName, digest: Digest) -> None:
        async def unreferred() -> bool:
            await self._remove_referrer(name, digest)
            self.contents.drop(digest)
            return True

        await self._links.remove(REVISION, name, digest, confirm=unreferred)

    async def _remove_referrer(self, name: RepoName, digest: Digest) -> None:
        """Remove the referrer link of a manifest whose revision link is gone, if it had a subject."""
        try:
            data = (await self.contents.load(digest)).data
            subject = await self._offload.run(len(data), lambda: media.stored_subject(data))
        except (ManifestUnknown, ManifestInvalid):
            return  # its bytes are gone or unreadable, so its subject is unknown
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
