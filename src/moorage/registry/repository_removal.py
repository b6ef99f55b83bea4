"""Removal of a whole repository: first its manifests, so that all tags are dead at once, then tags and blobs.

    mark ──► manifests ──► tags ──► referrers ──► blobs ──► empty directories ──► mark goes
                       └─ from here on the repository is in no catalog

The mark `_removing` takes the repository out of the catalog as soon as it has no manifest, while its other links
are still being removed (100,000 tags take a while); a push brings it back at once.  Repositories below it, `a/b`
of `a`, are others and stay, and so do unfinished uploads, which are purged by age.

Links are removed in batches.  Each batch is in the record of the deletion (`trash.py`), durably, before it goes,
and exactly the links in the record are removed.  A crash leaves the mark, and the next call continues: its record
refers to that of the first, and both are restored together.

A push at the same moment is either refused, because a blob is not there any more, or its manifest stays, and its
layer links are written again; another call removes it.

Memory: one batch, independent of the number of tags.  Above: `repositories.py`.  Below: `links.py`, `tags.py`.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from moorage.concurrency import for_each, map_bounded, one_page
from moorage.errors import ManifestInvalid, NameUnknown
from moorage.registry import layout, media
from moorage.registry.links import LAYER, REVISION, read_link
from moorage.registry.stamps import utc_now
from moorage.registry.tags import NOWHERE
from moorage.registry.trash import Earlier, TrashUnreadable
from moorage.storage.driver import KeyMissing, ObjectTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from moorage.registry.blob_store import BlobStore
    from moorage.registry.layout import ParsedKey
    from moorage.registry.links import LinkKind, Links
    from moorage.registry.trash import RepositoryPages, Trash
    from moorage.storage.driver import Driver, Key, Stat
    from moorage.types import Digest, RepoName

__all__ = ["RemovedRepository", "RepositoryRemoval"]

_log: Final = structlog.get_logger("moorage.registry")
_BATCH: Final = 2_000
_DELETED_AT_ONCE: Final = 100
_IN_FLIGHT: Final = 16

_T = TypeVar("_T")


@dataclass(slots=True)
class RemovedRepository:
    """Numbers of links that were removed, or that would be."""

    manifests: int = 0
    tags: int = 0
    blobs: int = 0

    @property
    def is_empty(self) -> bool:
        """Return whether there was nothing but directories, marks and histories of tags."""
        return not (self.manifests or self.tags or self.blobs)


class RepositoryRemoval:
    """Removes one repository.  `progress` is called with the number of links of each batch."""

    def __init__(
        self,
        driver: Driver,
        name: RepoName,
        *,
        store: BlobStore,
        links: Links,
        trash: Trash,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._driver = driver
        self._name = name
        self._store = store
        self._links = links
        self._trash = trash
        self._on_progress = progress
        self._removed = RemovedRepository()

    async def count(self) -> RemovedRepository:
        """Return what `run` would remove.  Raises NameUnknown, StorageUnavailable."""
        await self._require()
        found = RemovedRepository()
        async for stats in self._batches(layout.revisions(self._name), "revision"):
            found.manifests += len(stats)
        async for stats in self._batches(layout.manifests(self._name), "tag"):
            found.tags += len(stats)
        async for stats in self._batches(layout.layers(self._name), "layer"):
            found.blobs += len(stats)
        return found

    async def run(self, *, by: str, reason: str, missing_ok: bool = False) -> RemovedRepository:
        """Remove the repository.  Raises NameUnknown, unless `missing_ok`; StorageError, after which another call
        continues.
        """
        if not missing_ok:
            await self._require()
        name, mark = self._name, layout.removal_mark(self._name)
        pages = self._trash.repository_pages(name, by=by, reason=reason, continues=await self._interrupted())
        await self._driver.write(mark, json.dumps({"version": 1, "by": by, "reason": reason}).encode())
        await self._remove_links(pages, layout.revisions(name), "revision", REVISION)
        await self._links.wait_for_leases()
        await self._remove_tags(pages)
        await self._driver.clear(layout.referrers(name))
        await self._remove_links(pages, layout.layers(name), "layer", LAYER)
        await self._links.wait_for_leases()
        await self._mend_late_pushes()
        await self._tidy()
        await pages.end()
        await self._driver.delete([mark])
        return self._removed

    def _progress(self, count: int) -> None:
        if self._on_progress is not None:
            self._on_progress(count)

    async def _interrupted(self) -> str:
        """Return the stamp of the last deletion, if it was interrupted; "" otherwise."""
        if not self._trash.enabled:
            return ""
        try:
            deletions = await self._trash.deletions(self._name)
        except TrashUnreadable as error:
            _log.warning("the record of an earlier deletion is damaged", cause=str(error))
            return ""
        return deletions[-1].stamp if deletions and not deletions[-1].ended else ""

    async def _tidy(self) -> None:
        """Remove empty directories and deletion marks; what a push has written meanwhile stays."""
        name = self._name
        if not await self._any(layout.revisions(name), "revision"):
            # Marks of deleted manifests, which matter only to tags that still name them.
            await self._driver.clear(layout.deleted_marks(name))
        for prefix in (layout.manifests(name), layout.layers(name), layout.referrers(name)):
            await self._driver.prune(prefix, utc_now())

    async def _require(self) -> None:
        """Raise NameUnknown if the repository holds nothing that a deletion removes."""
        name = self._name
        async for names in self._driver.children(layout.repository(name), after="^", limit=16):
            if {layout.MANIFESTS_NAME, "_layers", "_referrers", layout.REMOVING_NAME} & set(names):
                return
        raise NameUnknown(name, detail={"name": name})

    async def _any(self, prefix: Key, kind: str) -> bool:
        async for stats in self._batches(prefix, kind):
            return bool(stats)
        return False

    async def _batches(self, prefix: Key, *kinds: str) -> AsyncIterator[Sequence[tuple[Stat, ParsedKey]]]:
        """Yield the objects of these kinds below `prefix`, about `_BATCH` at a time."""
        batch: list[tuple[Stat, ParsedKey]] = []
        async for page in self._driver.scan(prefix):
            for stat in page:
                parsed = layout.parse_key(stat.key)
                if parsed is not None and parsed.kind in kinds:
                    batch.append((stat, parsed))
            await asyncio.sleep(0)  # a local disk answers at once, and other requests need their turn
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _remove_links(self, pages: RepositoryPages, prefix: Key, kind: str, link: LinkKind) -> None:
        async for batch in self._batches(prefix, kind):
            digests = [parsed.digest for _, parsed in batch if parsed.digest is not None]
            stored = dict(zip(digests, await map_bounded(digests, self._stored(link)), strict=True))
            for digest, target in stored.items():
                if link is REVISION:
                    await pages.add_manifest(digest)
                    self._removed.manifests += 1
                else:
                    await pages.add_layer(digest, target)
                    self._removed.blobs += 1
            await pages.close()

            async def remove(few: Sequence[Digest], stored: dict[Digest, Digest] = stored) -> None:
                await self._links.remove_all(link, self._name, {digest: stored[digest] for digest in few})
                self._progress(len(few))

            await for_each(one_page(_few(digests)), remove, limit=_IN_FLIGHT)

    def _stored(self, link: LinkKind) -> Callable[[Digest], Awaitable[Digest]]:
        async def stored(digest: Digest) -> Digest:
            # CNCF Distribution's sha512 links name a sha256 digest; the others name that of their key.
            if link is LAYER and digest.algorithm != "sha256":
                return await self._links.current(LAYER, self._name, digest) or digest
            return digest

        return stored

    async def _remove_tags(self, pages: RepositoryPages) -> None:
        async for batch in self._batches(layout.manifests(self._name), "tag", "history"):
            named = [(stat.key, parsed.tag) for stat, parsed in batch if parsed.kind == "tag" and parsed.tag]
            found = await map_bounded([key for key, _ in named], lambda key: read_link(self._driver, key))
            targets = {tag: digest for (_, tag), digest in zip(named, found, strict=True)}
            for tag, digest in targets.items():
                if digest is not None and digest != NOWHERE:
                    await pages.add_tag(tag, digest)
                    self._removed.tags += 1
            for stat, parsed in batch:
                if parsed.kind == "history" and parsed.tag is not None and parsed.digest is not None:
                    await pages.add_earlier(parsed.tag, Earlier(parsed.digest, stat.modified))
            await pages.close()

            async def remove(few: Sequence[Key]) -> None:
                await self._driver.delete(few)
                self._progress(len(few))

            async def forget(few: Sequence[Stat]) -> None:
                await self._driver.remove_unchanged(few)
                self._progress(len(few))

            # Links before histories: a tag without a link is none, one without a history would be repaired.
            await for_each(one_page(_few([key for key, _ in named])), remove, limit=_IN_FLIGHT)
            # Not durably, which costs a commit of the disk for each tag: one without a link expires by itself.
            # One that a push has written anew meanwhile stays.
            rest = [stat for stat, parsed in batch if parsed.kind == "history"]
            await for_each(one_page(_few(rest)), forget, limit=_IN_FLIGHT)

    async def _mend_late_pushes(self) -> None:
        """Write the layer links of manifests that were pushed meanwhile, which rely on links that are gone."""
        async for batch in self._batches(layout.revisions(self._name), "revision"):
            for digest in (parsed.digest for _, parsed in batch if parsed.digest is not None):
                try:
                    parsed = media.parse(await self._store.content(digest))
                except (KeyMissing, ObjectTooLarge, ManifestInvalid):
                    continue  # it cannot be served either
                for layer in parsed.blobs:
                    if not layer.external and await self._store.stat(layer.digest) is not None:
                        await self._links.set(LAYER, self._name, layer.digest)


def _few(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _DELETED_AT_ONCE):
        yield items[start : start + _DELETED_AT_ONCE]
