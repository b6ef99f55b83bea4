"""Erasure of leaked content: removes it from repositories at once, also from the trash and the history of tags.

    audit record ──► tags ──► manifest ──► blobs that nothing else in the repository names ──► trash, history

From then on no client gets the content by any name, and no restore brings it back.  Its bytes are the subject of a
collection run limited to these digests (`gc/unlinked.py`), which `moorage erase` starts afterwards.

A blob is erased with a manifest only if no other manifest of the repository names it: base layers stay.  A blob
that is named by its digest is erased in any case, and images that contain it are broken.  Marks of deletions
(`tags.py`) stay: each has a digest in its key, and leads to nothing.

The record (`_moorage/audit/STAMP`) is durable before anything is removed.  A crash in the middle leaves some of
the content; the same call completes the erasure.  A page of the trash or of the history is written anew under
another name without the erased lines, since objects of these families never change.

Above: `moorage erase`.  Below: `links.py`, `tags.py`, `trash.py`, `history.py`, `repository_removal.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorage.concurrency import map_bounded
from moorage.errors import ManifestInvalid, Protected
from moorage.registry import layout, media
from moorage.registry.blob_store import BlobStore
from moorage.registry.links import LAYER, REVISION, Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.protection import UNPROTECTED, Protection, ProtectionCheck
from moorage.registry.records import read_record, report_damage
from moorage.registry.repositories import repository_names
from moorage.registry.repository_removal import RepositoryRemoval
from moorage.registry.stamps import new_stamp, stamp_time, utc_now
from moorage.registry.tags import TagStore, as_tag
from moorage.registry.timeline import tag_timeline
from moorage.registry.trash import Trash
from moorage.registry.walk import list_digests
from moorage.storage.driver import Key, KeyMissing, ObjectTooLarge
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from moorage.storage.driver import Driver
    from moorage.types import Reference, RepoName, Tag

__all__ = ["EraseRefused", "Erased", "Eraser", "audit_records"]

_LIMIT_BYTES: Final = 64 << 20
_REMEDY: Final = "nothing shows what was erased; restore the object from a backup, or remove it"


async def audit_records(driver: Driver, digest: Digest) -> list[dict[str, Any]]:
    """Return the records of erasures that name a digest, in order of time.  Raises StorageUnavailable."""
    found = []
    async for names in driver.children(layout.AUDIT):
        for stamp in names:
            fields = await read_record(driver, layout.audit(stamp), remedy=_REMEDY, limit=_LIMIT_BYTES)
            if fields is None:
                continue
            digests = fields.get("digests")
            if not isinstance(digests, list):
                report_damage(layout.audit(stamp), "it has no list of digests", remedy=_REMEDY)
            elif str(digest) in digests:
                found.append(fields)
    return found


class EraseRefused(Exception):
    """There is nothing to erase, or it is protected; nothing was changed."""


@dataclass(slots=True)
class Erased:
    """Content to erase, and what has been erased of it.  `named` are erased even if other manifests name them."""

    digests: list[Digest] = field(default_factory=list)
    named: set[Digest] = field(default_factory=set)
    repositories: list[RepoName] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    audit: str = ""


class Eraser:
    """Erases content of one store on behalf of the user `by`, unless `protection` forbids its deletion.

    `links` has the leases and the shared cache of the registry.  Methods raise EraseRefused, StorageError.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        links: Links,
        by: str,
        protection: Protection = UNPROTECTED,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._driver = driver
        self._protection = protection
        self._links = links
        self._by = by
        self._now = now
        self._blobs = BlobStore(driver)
        self._tags = TagStore(driver, links=links)
        self._trash = Trash(driver, keep_s=0)
        self._check = ProtectionCheck(protection, self._tags, links, ManifestContents(self._blobs))

    async def plan(self, name: RepoName, reference: Reference | None, *, everywhere: bool) -> Erased:
        """Return what `run` would erase.  Raises EraseRefused if nothing of it is known, or any is protected."""
        found = Erased(repositories=[name])
        if reference is None:
            found.digests = list(dict.fromkeys([digest async for digest in self._all_digests(name)]))
            if not found.digests and not [page async for page in self._driver.scan(layout.repository(name))]:
                raise EraseRefused(f"there is no repository {name}")
        elif isinstance(reference, Digest):
            found.named = {reference}
            found.digests = await self._unit(name, reference)
            if not everywhere and not await self._knows(name, reference):
                raise EraseRefused(f"{name} neither has {reference} nor records its deletion; try --everywhere")
        else:
            timeline = await tag_timeline(self._driver, name, reference)
            found.named = {event.digest for event in timeline if event.digest is not None}
            if not found.named:
                raise EraseRefused(f"nothing is known of a tag {reference} in {name}")
            units = [await self._unit(name, digest) for digest in sorted(found.named)]
            found.digests = list(dict.fromkeys(digest for unit in units for digest in unit))
        if everywhere:
            found.repositories = [other async for other in repository_names(self._driver, with_manifests=False)]
        for repository in found.repositories:
            if self._protection.concerns(repository):
                try:
                    await self._check_protection(repository, reference if repository == name else None, found)
                    if reference is None and repository == name:
                        await self._check.check_repository_deletion(name)
                except Protected as error:
                    raise EraseRefused(
                        f"{error.subject}; end the hold or the immutability in the settings first"
                    ) from error
        return found

    async def _check_protection(self, name: RepoName, reference: Reference | None, found: Erased) -> None:
        """Refuse the erasure from one repository if it has any of it protected, in use or in the trash."""
        holds = self._protection.holds
        if reference is not None and not isinstance(reference, Digest):
            await self._check.check_tag_deletion(name, reference)
        wanted = set(found.digests)
        wanted -= await self._named_by_others(name, wanted) - found.named
        present = {digest for digest in wanted if await self._is_linked(name, digest)}
        async for entries in self._trash.entries(name):
            for entry in entries:
                present |= wanted.intersection((*entry.manifests, *entry.blobs))
                reason = None if entry.tag is None else holds.holds(name, entry.tag)
                if reason is None:
                    continue
                for manifest in entry.manifests:
                    if not wanted.isdisjoint(await self._unit(name, manifest)):
                        raise Protected(f"the deleted tag {entry.tag} of {name} is held: {reason}")
        for digest in sorted(present):
            await self._check.check_deletion(name, digest)

    async def run(self, name: RepoName, reference: Reference | None, plan: Erased) -> Erased:
        """Erase what `plan` has."""
        stamp = new_stamp(self._now())
        record = {
            "version": 1,
            "action": "erase",
            "at": self._now().isoformat(),
            "by": self._by,
            "what": name if reference is None else f"{name}{_joined(reference)}",
            "repositories": list(plan.repositories),
            "digests": [str(digest) for digest in plan.digests],
        }
        await self._driver.write(layout.audit(stamp), json.dumps(record).encode())
        plan.audit = stamp
        for repository in plan.repositories:
            if reference is None and repository == name:
                await self._whole(repository)
            else:
                wanted = set(plan.digests)
                shared = await self._named_by_others(repository, wanted) - plan.named
                await self._from(repository, wanted - shared, plan)
        await self._links.wait_for_leases()
        return plan

    # Finding it.

    async def _all_digests(self, name: RepoName) -> AsyncIterator[Digest]:
        for prefix in (layout.revisions(name), layout.layers(name)):
            async for digests in list_digests(self._driver, prefix):
                for digest in digests:
                    yield digest
        async for entries in self._trash.entries(name):
            for entry in entries:
                for digest in (*entry.manifests, *entry.blobs):
                    yield digest

    async def _is_linked(self, name: RepoName, digest: Digest) -> bool:
        return any([await self._links.exists(kind, name, digest) for kind in (REVISION, LAYER)])

    async def _knows(self, name: RepoName, digest: Digest) -> bool:
        if await self._is_linked(name, digest):
            return True
        async for page in self._trash.entries(name):
            if any(digest in (*entry.manifests, *entry.blobs) for entry in page):
                return True
        return False

    async def _unit(self, name: RepoName, digest: Digest) -> list[Digest]:
        """Return a manifest with its children of this repository and all their blobs; a blob alone."""
        found = {digest: None}
        if await self._links.exists(LAYER, name, digest):
            return list(found)
        waiting = [digest]
        while waiting:
            for child, is_manifest in await self._references(waiting.pop()):
                if child not in found:
                    found[child] = None
                    if is_manifest:
                        waiting.append(child)
        return list(found)

    async def _references(self, digest: Digest) -> Sequence[tuple[Digest, bool]]:
        try:
            parsed = media.parse(await self._blobs.content(digest))
        except (KeyMissing, ObjectTooLarge, ManifestInvalid):
            return ()  # a blob, or bytes that are gone
        return [
            *((layer.digest, False) for layer in parsed.blobs),
            *((child.digest, True) for child in parsed.children),
        ]

    async def _manifests_of(self, name: RepoName) -> set[Digest]:
        pages = list_digests(self._driver, layout.revisions(name))
        return {digest async for digests in pages for digest in digests}

    async def _named_by_others(self, name: RepoName, wanted: set[Digest]) -> set[Digest]:
        """Return those of `wanted` that a manifest of the repository names which is not erased itself."""
        others = await self._manifests_of(name) - wanted
        references = await map_bounded(sorted(others), self._references)
        return {digest for named in references for digest, _ in named} & wanted

    # Removing it.

    async def _whole(self, name: RepoName) -> None:
        await RepositoryRemoval(self._driver, name, store=self._blobs, links=self._links, trash=self._trash).run(
            by=self._by, reason="erased", missing_ok=True
        )
        for prefix in (layout.trash(name), layout.tag_events(name), layout.uploads(name)):
            await self._driver.clear(prefix)

    async def _from(self, name: RepoName, wanted: set[Digest], plan: Erased) -> None:
        await self._tags_of(name, wanted, plan)
        for digest in sorted(wanted):
            for kind in (REVISION, LAYER):
                stored = await self._links.current(kind, name, digest)
                if stored is not None:
                    await self._links.remove_all(kind, name, {digest: stored})
            await self._referrer(name, digest)
        await self._records(name, wanted)
        await self._events(name, wanted)

    async def _tags_of(self, name: RepoName, wanted: set[Digest], plan: Erased) -> None:
        async def examine(text: str) -> None:
            tag = as_tag(text)
            if tag is None:
                return
            if await self._tags.resolve(name, tag) in wanted:
                await self._tags.delete(name, tag)
                plan.tags.append(f"{name}:{tag}")
                return
            for past in await self._tags.past(name, tag):
                if past.digest in wanted:
                    await self._tags.forget(name, tag, past.digest)

        async for page in self._tags.names(name):
            await map_bounded(page, examine)

    async def _referrer(self, name: RepoName, digest: Digest) -> None:
        try:
            subject = media.stored_subject(await self._blobs.content(digest))
        except (KeyMissing, ObjectTooLarge, ManifestInvalid):
            return
        if subject is not None:
            await self._driver.delete([layout.referrer_link(name, subject, digest)])

    async def _records(self, name: RepoName, wanted: set[Digest]) -> None:
        """Remove the records of the trash, and the lines of pages, that name one of the digests."""
        async for keys in self._trash.keys(name):
            for key in keys:
                if f"{layout.trashed_repository(name)}/" in key:
                    await self._without_lines(key, wanted)
                elif await self._names(key, wanted):
                    await self._trash.remove([key])

    async def _events(self, name: RepoName, wanted: set[Digest]) -> None:
        prefix = layout.tag_events(name)
        async for stamps in self._driver.children(prefix):
            for stamp in stamps:
                if (at := stamp_time(stamp)) is not None:
                    await self._without_lines(layout.below(prefix, stamp), wanted, at=at)

    async def _names(self, key: Key, wanted: set[Digest]) -> bool:
        content = await self._content(key)
        return any(str(digest).encode() in content for digest in wanted)

    async def _content(self, key: Key) -> bytes:
        try:
            return (await self._driver.read(key, limit=_LIMIT_BYTES)).data
        except KeyMissing:
            return b""

    async def _without_lines(self, key: Key, wanted: set[Digest], *, at: datetime | None = None) -> None:
        """Replace an object by one under another name, without the lines that have one of the digests."""
        texts = [str(digest).encode() for digest in wanted]
        lines = (await self._content(key)).split(b"\n")
        kept = [line for line in lines if not any(text in line for text in texts)]
        if len(kept) == len(lines):
            return
        home, _, old = key.rpartition("/")
        name = new_stamp(at) if at is not None else f"{old[: old.rindex('.')]}.9{int(old.rpartition('.')[2]):05}"
        if b"".join(kept).strip():
            await self._driver.write(layout.below(Key(home), name), b"\n".join(kept))
        await self._driver.delete([key])


def _joined(reference: Tag | Digest) -> str:
    return f"@{reference}" if isinstance(reference, Digest) else f":{reference}"
