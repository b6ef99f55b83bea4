"""Restore: brings deleted tags, manifests, blobs and repositories back, and tags to what they pointed to.

    find what was there (`timeline.py`, `trash.py`) ──► check that all bytes are whole ──► layer links
        ──► manifests, children first ──► tags

Nothing is written before every byte that the restored content needs has been found: the manifests' content is
compared with their digests, layers and configs with the sizes in their manifests.  Content that was collected is
refused by name.  A child of an index that the repository neither has nor had is left out, as it was before.

Two rules follow from `tags.py`.  A manifest that is restored by its digest brings back the tags that still name
it, as they were before the deletion.  A tag that is restored brings back its manifest and no other tag.

Beside a garbage collection that is in progress, a restore relies on bytes as a push does (`collection_gate.py`).

Records in the trash stay: they are the history of what happened, and expire by themselves.  A crash in the middle
leaves links without a tag, which a second call completes.

Above: `moorage restore`.  Below: `manifests.py`, `links.py`, `tags.py`, `blob_store.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.concurrency import map_bounded
from moorage.errors import ManifestInvalid
from moorage.registry import media
from moorage.registry.blob_store import BlobStore, Purpose
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.history import TagHistory
from moorage.registry.links import LAYER, REVISION, Links
from moorage.registry.manifests import StoredManifests
from moorage.registry.protection import UNPROTECTED, Protection
from moorage.registry.referrer_links import encode
from moorage.registry.stamps import utc_now
from moorage.registry.tags import TagStore, as_tag
from moorage.registry.timeline import state_at, tag_timeline, tag_timelines
from moorage.registry.trash import LAYER_KIND, MANIFEST_KIND, TAG_KIND, Trash, TrashUnreadable
from moorage.storage.driver import KeyMissing, ObjectTooLarge
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from moorage.registry.collection_gate import CollectionSnapshot
    from moorage.registry.history import TagEvent
    from moorage.registry.referrer_links import ReferrerLink
    from moorage.registry.trash import TrashEntry
    from moorage.storage.driver import Driver
    from moorage.types import RepoName, Tag

__all__ = ["RESTORED", "RestoreRefused", "Restored", "Restorer"]

RESTORED: Final = "moorage restore"
"""Reason in the history of a tag."""

_DEPTH: Final = 32
_APART_S: Final = 0.01
"""Seconds between two tags: filesystems take their times from a clock that ticks 100 to 1,000 times a second."""
_AGAIN: Final = "repeat the command when the collection has ended"
_COLLECTED: Final = "it was removed by garbage collection, or never stored here"


class RestoreRefused(Exception):
    """The content cannot be restored; nothing was changed.  The text has the reason and a remedy."""


@dataclass(slots=True)
class Restored:
    """Result of a restore.  `moved` are those of `tags` that existed; `kept` tags that exist and were not moved;
    `problems` what could not be restored.
    """

    tags: dict[Tag, Digest] = field(default_factory=dict)
    manifests: list[Digest] = field(default_factory=list)
    layers: list[Digest] = field(default_factory=list)
    moved: set[Tag] = field(default_factory=set)
    kept: list[Tag] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Plan:
    """Links to write, and digests of all bytes that have to be there; `manifests` in order, children first."""

    name: RepoName
    begun: CollectionSnapshot
    layers: dict[Digest, Digest] = field(default_factory=dict)
    manifests: dict[Digest, ReferrerLink | None] = field(default_factory=dict)
    bytes: dict[Digest, Digest] = field(default_factory=dict)
    trashed_manifests: set[Digest] = field(default_factory=set)
    trashed_layers: dict[Digest, Digest] = field(default_factory=dict)


class Restorer:
    """Restores content of one store, on behalf of the user `by`.  `protection`: tags that are not moved.

    Methods raise RestoreRefused, StorageUnavailable, StorageExhausted; `close` writes the history.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        by: str = "",
        protection: Protection = UNPROTECTED,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._sleep = sleep
        self._protection = protection
        self._by = by
        self._links = Links(driver)
        self._tags = TagStore(driver, links=self._links)
        self._blobs = BlobStore(driver)
        self._gate = CollectionGate(driver, self._blobs)
        self._manifests = StoredManifests(
            driver, store=self._blobs, links=self._links, tags=self._tags, gate=self._gate
        )
        self._trash = Trash(driver, keep_s=0, now=now)
        self._history = TagHistory(driver, now=now)

    async def close(self) -> None:
        await self._history.close()
        await self._gate.close()

    async def tag(
        self, name: RepoName, tag: Tag, *, at: datetime | None = None, previous: bool = False
    ) -> Restored:
        """Restore a deleted tag; with `at` or `previous`, move it to what it pointed to at a time, or before."""
        current = await self._current(name, tag)
        timeline = await tag_timeline(self._driver, name, tag)
        if not timeline:
            raise RestoreRefused(f"nothing is known of a tag {tag} in {name}")
        target: Digest | None
        if at is not None:
            target = state_at(timeline, at)
            if target is None:
                raise RestoreRefused(f"{name}:{tag} did not exist at {at.isoformat()}, as far as is known")
        elif current is not None and not previous:
            raise RestoreRefused(
                f"{name}:{tag} exists and points to {current}; "
                "choose what it pointed to before with --previous or --at TIME"
            )
        else:
            past = [event.digest for event in timeline if event.digest not in {None, current}]
            target = past[-1] if past else None
            if target is None:
                raise RestoreRefused(f"{name}:{tag} has pointed to no other manifest, as far as is known")
        if target == current:
            raise RestoreRefused(f"{name}:{tag} points to {current} already")
        reason = None if current is None else self._protection.from_moving(name, tag)
        if reason is not None:
            raise RestoreRefused(f"the tag {tag} of {name} {reason}; it points to {current}, and is not moved")
        plan = await self._plan(name)
        await self._add_manifest(plan, target)
        result = await self._apply(plan)
        await self._point(name, tag, target, result, moves=current is not None)
        return result

    async def digest(self, name: RepoName, digest: Digest) -> Restored:
        """Restore a manifest, with the tags that still name it, or a blob."""
        plan = await self._plan(name)
        if digest in plan.trashed_manifests:
            if await self._links.exists(REVISION, name, digest):
                raise RestoreRefused(f"the manifest {digest} is in {name} already")
            await self._add_manifest(plan, digest)
            result = await self._apply(plan, revived={digest})
            await self._note_revived(name, digest, result)
            return result
        if digest not in plan.trashed_layers:
            raise RestoreRefused(f"no deletion of {digest} from {name} is recorded; it may have expired")
        if await self._links.exists(LAYER, name, digest):
            raise RestoreRefused(f"the blob {digest} is in {name} already")
        await self._add_layer(plan, digest, None)
        return await self._apply(plan)

    async def repository(self, name: RepoName, *, at: datetime | None = None) -> Restored:
        """Restore everything that the last deletion of the whole repository removed; tags that exist stay.

        With `at`: what was deleted since then comes back, and every tag points to what it pointed to.

        Tags are set one after another as they were pushed, so that the newest is the newest for retention.  A
        bucket may have times of whole seconds; then the order of those of one second is lost.
        """
        result = Restored()
        wanted: dict[Tag, Digest] = {}
        timelines = await tag_timelines(self._driver, name)
        if at is None:
            entries = await self._last_deletion(name)
            wanted = {
                entry.tag: entry.digest for entry in entries if entry.kind == TAG_KIND and entry.tag is not None
            }
        else:
            entries = [entry for entry in await self._all(name) if entry.at > at]
            for tag, timeline in timelines.items():
                target = state_at(timeline, at)
                if target is not None:
                    wanted[tag] = target
        wanted, existing = await self._to_point(name, wanted, result, moves=at is not None)
        plan = await self._plan(name)
        digests = [entry.digest for entry in entries if entry.kind == MANIFEST_KIND]
        await self._try_all(plan, dict.fromkeys((*digests, *wanted.values())), result)
        for entry in entries:
            if entry.kind == LAYER_KIND:
                try:
                    await self._add_layer(plan, entry.digest, None)
                except RestoreRefused as error:
                    result.problems.append(str(error))
        if not plan.manifests and not plan.layers:
            reason = result.problems[0] if result.problems else "all of it is there"
            raise RestoreRefused(f"nothing of {name} can be restored: {reason}")
        applied = await self._apply(plan, revived=set() if at is None else set(digests))
        result.manifests, result.layers = applied.manifests, applied.layers

        tags = [tag for tag in sorted(wanted) if wanted[tag] in plan.manifests]
        pushed = {tag: _pushed(timelines.get(tag, ()), wanted[tag], at) for tag in tags}
        for number, tag in enumerate(sorted(tags, key=lambda tag: pushed[tag])):
            if number:
                await self._sleep(_APART_S)
            await self._point(name, tag, wanted[tag], result, moves=tag in existing)
        return result

    async def _to_point(
        self, name: RepoName, wanted: Mapping[Tag, Digest], result: Restored, *, moves: bool
    ) -> tuple[dict[Tag, Digest], set[Tag]]:
        """Return the tags to set, and which of them exist: with `moves` also those that point elsewhere."""
        found: dict[Tag, Digest] = {}
        existing: set[Tag] = set()

        async def examine(tag: Tag) -> None:
            current = await self._current(name, tag)
            moved = moves and current != wanted[tag]
            reason = self._protection.from_moving(name, tag) if moved and current is not None else None
            if reason is not None:
                result.problems.append(f"the tag {tag} {reason}; it points to {current}, and is not moved")
            elif current is None or moved:
                found[tag] = wanted[tag]
                if current is not None:
                    existing.add(tag)
            elif current != wanted[tag]:
                result.kept.append(tag)

        await map_bounded(sorted(wanted), examine)
        return found, existing

    # What there was.

    async def _current(self, name: RepoName, tag: Tag) -> Digest | None:
        digest = await self._tags.resolve(name, tag)
        if digest is None or not await self._links.exists(REVISION, name, digest):
            return None
        return digest

    async def _all(self, name: RepoName) -> Sequence[TrashEntry]:
        return [entry async for page in self._trash.entries(name) for entry in page]

    async def _last_deletion(self, name: RepoName) -> Sequence[TrashEntry]:
        """Return what the last deletion of the repository removed, and interrupted ones that it continued."""
        try:
            deletions = {deletion.stamp: deletion for deletion in await self._trash.deletions(name)}
            if not deletions:
                raise RestoreRefused(
                    f"no deletion of the whole repository {name} is recorded; "
                    "name a tag or digest, or use --at TIME"
                )
            found: list[TrashEntry] = []
            stamp = max(deletions)
            while (deletion := deletions.pop(stamp, None)) is not None:
                found[:0] = [entry for key in deletion.pages for entry in await self._trash.read(key)]
                stamp = deletion.continues
        except TrashUnreadable as error:
            raise RestoreRefused(f"the record of the deletion is damaged: {error}") from error
        return found

    # Checking that everything is there.

    async def _plan(self, name: RepoName) -> _Plan:
        plan = _Plan(name, await self._gate.begin())
        for entry in await self._all(name):
            if entry.kind == LAYER_KIND:
                plan.trashed_layers[entry.digest] = entry.stored or entry.digest
            else:
                plan.trashed_manifests.add(entry.digest)
        return plan

    async def _try_all(self, plan: _Plan, digests: Iterable[Digest], result: Restored) -> None:
        async def one(digest: Digest) -> None:
            try:
                await self._add_manifest(plan, digest)
            except RestoreRefused as error:
                result.problems.append(str(error))

        await map_bounded(digests, one)

    async def _add_manifest(self, plan: _Plan, digest: Digest, depth: int = 0) -> None:
        """Add a manifest and all that it names to the plan.  Raises RestoreRefused."""
        if digest in plan.manifests:
            return
        if depth > _DEPTH:
            raise RestoreRefused(f"the manifest {digest} is nested too deeply")
        await self._admit(plan, digest)
        try:
            data = await self._blobs.content(digest)
        except KeyMissing:
            raise RestoreRefused(f"the manifest {digest} is gone: {_COLLECTED}") from None
        except ObjectTooLarge:
            raise RestoreRefused(f"{digest} is larger than any manifest") from None
        if Digest.of(data, digest.algorithm) != digest:
            raise RestoreRefused(f"the manifest {digest} is damaged: its bytes are not those of its digest")
        try:
            parsed = media.parse(data)
        except ManifestInvalid as error:
            raise RestoreRefused(f"the manifest {digest} cannot be served: {error.subject}") from error
        for layer in dict.fromkeys(parsed.blobs):
            if not layer.external:
                await self._add_layer(plan, layer.digest, layer.size, of=digest)
        for child in dict.fromkeys(child.digest for child in parsed.children):
            if child in plan.trashed_manifests or await self._links.exists(REVISION, plan.name, child):
                await self._add_manifest(plan, child, depth + 1)
            elif child in plan.trashed_layers or await self._links.exists(LAYER, plan.name, child):
                await self._add_layer(plan, child, None, of=digest)
        plan.bytes[digest] = digest
        plan.manifests[digest] = encode(digest, len(data), parsed)

    async def _add_layer(self, plan: _Plan, digest: Digest, size: int | None, *, of: Digest | None = None) -> None:
        linked = await self._links.current(LAYER, plan.name, digest)
        stored = linked or plan.trashed_layers.get(digest, digest)
        await self._admit(plan, digest, stored)
        found = await self._blobs.rely(stored, Purpose.LINK)
        if found is None:
            part = f"the blob {digest}" if of is None else f"the blob {digest} of the manifest {of}"
            raise RestoreRefused(f"{part} is gone: {_COLLECTED}")
        if size not in {None, found}:
            raise RestoreRefused(f"the blob {digest} has {found} bytes, and its manifest {of} names {size}")
        plan.bytes[digest] = stored
        if linked is None:
            plan.layers[digest] = stored

    async def _admit(self, plan: _Plan, *digests: Digest) -> None:
        """Rescue digests that a collection in progress is going to remove.  Raises RestoreRefused."""
        if not await self._gate.admits(plan.begun, plan.name, *digests):
            raise RestoreRefused(f"garbage collection is removing {digests[0]} at this moment; {_AGAIN}")

    # Writing.

    async def _apply(self, plan: _Plan, *, revived: set[Digest] | None = None) -> Restored:
        """Write the links.  Tags that name a manifest of `revived` come back with it."""
        name, result = plan.name, Restored()

        async def link_layer(digest: Digest) -> None:
            await self._links.set(LAYER, name, digest, plan.layers[digest])

        await map_bounded(plan.layers, link_layer)
        result.layers += plan.layers
        for digest, referrer in plan.manifests.items():
            if not await self._links.exists(REVISION, name, digest):
                await self._manifests.link(name, digest, referrer, revive_tags=digest in (revived or ()))
                result.manifests.append(digest)
        links = {LAYER(name, digest): digest for digest in plan.bytes if digest not in plan.manifests}
        links |= {REVISION(name, digest): digest for digest in plan.manifests}
        lost = await self._gate.confirm(plan.begun, name, tuple(plan.bytes.values()), links)
        if lost:
            raise RestoreRefused(f"garbage collection has removed {min(lost)} meanwhile; no tag was set; {_AGAIN}")
        return result

    async def _point(self, name: RepoName, tag: Tag, digest: Digest, result: Restored, *, moves: bool) -> None:
        await self._tags.record(name, tag, digest)
        await self._tags.set(name, tag, digest)
        self._history.note(name, tag, digest, by=self._by, reason=RESTORED)
        result.tags[tag] = digest
        if moves:
            result.moved.add(tag)

    async def _note_revived(self, name: RepoName, digest: Digest, result: Restored) -> None:
        """Find the tags that the manifest has brought back; costs a read for each tag of the repository."""

        async def consider(text: str) -> None:
            tag = as_tag(text)
            if tag is not None and await self._tags.resolve(name, tag) == digest:
                self._history.note(name, tag, digest, by=self._by, reason=RESTORED)
                result.tags[tag] = digest

        async for page in self._tags.names(name):
            await map_bounded(page, consider)


def _pushed(timeline: Sequence[TagEvent], digest: Digest, until: datetime | None) -> datetime:
    """Return when a tag was last set to a manifest, at `until` or before; the beginning of time if unknown."""
    times = [event.at for event in timeline if event.digest == digest and (until is None or event.at <= until)]
    return max(times, default=datetime.min.replace(tzinfo=UTC))
