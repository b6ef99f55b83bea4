"""Copies a whole registry, or some of its repositories, from one store to another.

Several repositories at the same time, and of each first the blobs with their layer links, then the manifests,
children before the index that names them, then the tags.

A manifest is copied only with its content: config and layers (not foreign ones, whose bytes another server has)
and those children of an index that are in the source repository.  Where manifests may be sparse, those config and
layers are left out that the source repository does not link.  An incomplete one is reported and left out, with
the tags that point at it, unless `incomplete` is set.  A manifest that this registry cannot read (schema 1) is
copied as it is.  Referrer links are made from the manifests, so artifacts that CNCF Distribution has no list of
are listed at the destination.

Changes of clients at the destination since an earlier run are kept, unless `overwrite` is set:

* A tag that points at another manifest there is moved only if that manifest is in the history of the source's tag:
  then the destination is merely behind.  Otherwise a client has moved it.
* A manifest that was deleted there by digest has left a mark, and stays deleted.

The tag is written on condition that it is unchanged since it was read, and the source's tag is read again
afterwards, so the copy of a tag that moves during the copy ends at the source's last manifest.

A garbage collection at the destination may run meanwhile.  If one does, or has since the copy began, each layer,
manifest and tag is confirmed when its link is written (`registry/collection_gate.py`), and what is lost is copied
again.

Not copied: unfinished uploads, the history of a tag before its current manifest, marks of deletions, dead tags.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.coalescing import SingleFlight
from moorage.concurrency import for_each, one_page
from moorage.copy.blobs import BlobRules, BlobState, BlobTransfer
from moorage.copy.progress import Tally
from moorage.errors import ManifestInvalid, Unavailable
from moorage.registry import layout, media
from moorage.registry.blob_store import BlobStore
from moorage.registry.collection_gate import ATTEMPTS, CollectionGate
from moorage.registry.links import has_link, read_link, resolve, write_link
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrer_links import encode
from moorage.registry.walk import RepositoryListing, requests_in_flight, visit_blobs, visit_repositories
from moorage.storage.driver import ABSENT, Conflict, KeyMissing, ObjectTooLarge, StorageUnavailable
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from moorage.copy.progress import CopyReporter
    from moorage.registry.collection_gate import CollectionSnapshot
    from moorage.registry.media import Parsed
    from moorage.registry.walk import ListedBlob
    from moorage.storage.driver import Driver, Key
    from moorage.types import RepoName, Tag

__all__ = ["Copier", "CopyOptions"]

_DEPTH: Final = 32
"""Nesting of indexes; more than two levels are not known from practice."""
_REMEMBERED: Final = 100_000
_TORN: Final = "the link is torn; `moorage storage check --repair` may repair it"
_SHOWN: Final = 3
"""Missing digests in one message."""
_COLLECTED: Final = "garbage collection removes its content at the destination; copy again when it has ended"
_TRIES: Final = 100
"""Moves of one tag during its copy."""


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """`repositories`: shell patterns of names, none for all; `at_once`: transfers of blobs at the same time.

    `is_sparse`: manifests of this repository of the source may lack config and layers.
    """

    repositories: tuple[str, ...] = ()
    all_blobs: bool = False
    incomplete: bool = False
    overwrite: bool = False
    recheck: bool = False
    dry_run: bool = False
    at_once: int = 4
    is_sparse: Callable[[RepoName], bool] = lambda _: False


class Copier:
    """One run of the copy."""

    def __init__(self, source: Driver, target: Driver, options: CopyOptions, reporter: CopyReporter) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._reporter = reporter
        self._stored = BlobStore(source)
        self.tally = Tally()
        rules = BlobRules(recheck=options.recheck, dry_run=options.dry_run)
        self._blobs = BlobTransfer(source, target, rules, self.tally, reporter, at_once=options.at_once)
        self._manifests = StoredManifests(target)
        self._gate = CollectionGate(target)
        self._begun: CollectionSnapshot | None = None
        self._running: SingleFlight[tuple[RepoName, Digest], bool] = SingleFlight()
        self._linked: LRUCache[tuple[RepoName, Digest], Digest] = LRUCache(_REMEMBERED)  # to the stored digest
        self._reported: LRUCache[str, bool] = LRUCache(_REMEMBERED)
        self._done: LRUCache[tuple[RepoName, Digest], bool] = LRUCache(_REMEMBERED)

    async def run(self) -> Tally:
        """Copy, and return the totals.

        Raises StorageError when a store fails; what was copied until then is complete and stays.
        """
        self._begun = await self._gate.begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                if not self._options.repositories:
                    tasks.create_task(self._plan())
                tasks.create_task(self._copy())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self._running.close()
            await self._blobs.close()
            await self._gate.close()
        return self.tally

    async def _lost(
        self, name: RepoName, digests: Collection[Digest], links: Mapping[Key, Digest]
    ) -> frozenset[Digest]:
        """Return what garbage collection removes at the destination, of the content of links that were written.

        Waits for the collector, and forgets that the destination has the bytes.
        """
        if self._begun is None or self._options.dry_run:
            return frozenset()
        lost = await self._gate.confirm(self._begun, name, digests, links)
        if lost:
            with suppress(Unavailable):  # the next attempt waits again
                await self._gate.settled(name, lost)
        for digest in lost:
            self._blobs.forget(digest)
        return lost

    async def _plan(self) -> None:
        async for page in self._source.scan(layout.BLOBS):
            self._reporter.planned(sum(stat.size for stat in page))

    async def _copy(self) -> None:
        # Four visits for each transfer: links and manifests are not held up by blobs on their way.
        visits = max(requests_in_flight(self._source, self._target), 4 * self._options.at_once)
        await visit_repositories(self._source, self._repository, in_flight=visits)
        if self._options.all_blobs:
            await visit_blobs(self._source, self._unlinked_blobs)

    def _is_selected(self, name: RepoName) -> bool:
        patterns = self._options.repositories
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    async def _unlinked_blobs(self, page: Sequence[ListedBlob]) -> None:
        """Copy a page of blobs, of which some are linked by no repository."""
        await for_each(one_page(blob.digest for blob in page), self._blobs.ensure)

    def _problem(self, where: str, text: str) -> None:
        if self._reported.get(where) is not None:
            return
        self._reported.put(where, value=True)
        self.tally.problems += 1
        self._reporter.problem(where, text)

    def _keep(self, where: str, text: str) -> None:
        if self._reported.get(where) is None:
            self._reported.put(where, value=True)
            self.tally.kept += 1
            self._reporter.note(where, text)

    async def _repository(self, repository: RepositoryListing) -> None:
        name = repository.name
        if not self._is_selected(name):
            return
        await repository.each_layer(partial(self._layer, name))
        await repository.each_manifest(partial(self._manifest, name))
        await repository.each_tag(partial(self._tag, name))
        self.tally.repositories += 1
        self._reporter.settled(self.tally)

    async def _layer(self, name: RepoName, digest: Digest) -> bool:
        """Copy a blob with its link; return whether the repository at the destination has it."""
        if self._linked.get((name, digest)) is not None:
            return True
        key = layout.layer_link(name, digest)
        stored, when = await resolve(self._source, key)
        if stored is None:
            if when is not ABSENT:
                self._problem(key, _TORN)
            return False
        for _ in range(ATTEMPTS):
            state = await self._blobs.ensure(stored)
            if state is not BlobState.INTACT:
                if state is BlobState.MISSING and await has_link(self._source, key):
                    self._problem(key, f"{stored}: {state.value}")
                return False
            await self._link(key, stored)
            if not await self._lost(name, (stored,), {key: digest}):
                self._linked.put((name, digest), stored)
                return True
        self._problem(key, _COLLECTED)
        return False

    async def _link(self, key: Key, digest: Digest) -> None:
        if await read_link(self._target, key) == digest:
            return
        if not self._options.dry_run:
            await write_link(self._target, key, digest)
        self.tally.links += 1

    async def _manifest(self, name: RepoName, digest: Digest, depth: int = 0) -> bool:
        """Copy a manifest with its content; return whether the destination has all of it."""
        if self._done.get((name, digest)) is not None:
            return True
        # A child is copied for its index, and for the list of all manifests, perhaps at the same time.
        complete = await self._running.run((name, digest), lambda: self._copy_manifest(name, digest, depth))
        if complete:  # a push may complete what is not
            self._done.put((name, digest), value=True)
        self._reporter.settled(self.tally)
        return complete

    async def _copy_manifest(self, name: RepoName, digest: Digest, depth: int, attempt: int = 1) -> bool:
        link = layout.revision_link(name, digest)
        found, when = await resolve(self._source, link)
        if found is None:
            if when is not ABSENT:
                self._problem(link, _TORN)
            return False
        exists = await read_link(self._target, link) == digest
        if (
            exists
            and attempt == 1
            and not self._options.recheck
            and await self._blobs.ensure(digest) is BlobState.INTACT
        ):
            return True  # its link was written after all of its content
        if not exists and not self._options.overwrite and await self._is_deleted(name, digest):
            self._keep(f"{name}@{digest}", "was deleted at the destination and stays deleted")
            return False
        data = await self._read(name, digest)
        if data is None:
            return False
        try:
            parsed = media.parse(data)
        except ManifestInvalid:
            parsed = None
        if parsed is not None and not await self._copy_content(name, digest, parsed, depth):
            return False
        state = await self._blobs.ensure(digest)
        if state is not BlobState.INTACT:
            return False
        if not exists:
            if not self._options.dry_run:
                referrer = None if parsed is None else encode(digest, len(data), parsed)
                await self._manifests.link(name, digest, referrer)
            self.tally.manifests += 1
        if not await self._is_collected(name, digest, parsed):
            return True
        if attempt == ATTEMPTS:
            self._problem(f"{name}@{digest}", _COLLECTED)
            return False
        return await self._copy_manifest(name, digest, depth, attempt + 1)

    async def _is_collected(self, name: RepoName, digest: Digest, parsed: Parsed | None) -> bool:
        """Return whether the manifest, or some of its content, is lost at the destination; then all is looked up
        again.
        """
        links = {layout.revision_link(name, digest): digest}
        digests = {digest}
        named_by = [] if parsed is None else [layer.digest for layer in parsed.blobs]
        named_by += [] if parsed is None else [child.digest for child in parsed.children]
        for named in named_by:
            if (stored := self._linked.get((name, named))) is not None:
                links[layout.layer_link(name, named)] = named
                digests.add(stored)
            if self._done.get((name, named)) is not None:
                links[layout.revision_link(name, named)] = named
                digests.add(named)
        if not await self._lost(name, digests, links):
            return False
        for named in links.values():
            self._linked.drop((name, named))
            self._done.drop((name, named))
        return True

    async def _is_deleted(self, name: RepoName, digest: Digest) -> bool:
        try:
            await self._target.stat(layout.deleted_mark(name, digest))
        except KeyMissing:
            return False
        return True

    async def _read(self, name: RepoName, digest: Digest) -> bytes | None:
        try:
            data = await self._stored.content(digest)
        except KeyMissing:
            if await has_link(self._source, layout.revision_link(name, digest)):
                self._problem(f"{name}@{digest}", BlobState.MISSING.value)
            return None
        except ObjectTooLarge:
            self._problem(f"{name}@{digest}", "it is larger than any manifest")
            return None
        except StorageUnavailable:
            await self._source.probe()  # raises if more than this manifest cannot be read
            self._problem(f"{name}@{digest}", BlobState.UNREADABLE.value)
            return None
        if Digest.of(data, digest.algorithm) != digest:
            self._problem(f"{name}@{digest}", BlobState.CORRUPT.value)
            return None
        return data

    async def _copy_content(self, name: RepoName, digest: Digest, parsed: Parsed, depth: int) -> bool:
        layers = [layer.digest for layer in parsed.blobs if not layer.external]
        missing = [layer for layer in layers if not await self._layer_of_manifest(name, layer)]
        missing += [child.digest for child in parsed.children if not await self._child(name, child.digest, depth)]
        if not missing or self._options.incomplete:
            return True
        if await has_link(self._source, layout.revision_link(name, digest)):
            shown = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
            self._problem(f"{name}@{digest}", f"left out: the source lacks some of its content: {shown}")
        return False

    async def _layer_of_manifest(self, name: RepoName, digest: Digest) -> bool:
        """Copy a config or layer; True also if the source lacks it and may."""
        if await self._layer(name, digest):
            return True
        return self._options.is_sparse(name) and not await self._is_linked(name, digest)

    async def _is_linked(self, name: RepoName, digest: Digest) -> bool:
        """Return whether the source has a link, torn or not."""
        found, when = await resolve(self._source, layout.layer_link(name, digest))
        return found is not None or when is not ABSENT

    async def _child(self, name: RepoName, digest: Digest, depth: int) -> bool:
        """Copy a child of an index; True also if the source lacks it: an index may name images of other places."""
        if await has_link(self._source, layout.revision_link(name, digest)):
            return depth < _DEPTH and await self._manifest(name, digest, depth + 1)
        if await has_link(self._source, layout.layer_link(name, digest)):  # BuildKit's cache
            return await self._layer(name, digest)
        return True

    async def _tag(self, name: RepoName, tag: Tag) -> None:
        for _ in range(_TRIES):
            digest = await self._source_digest(name, tag)
            if digest is None:
                return
            copied = await self._manifest(name, digest)
            if copied and not await self._point(name, tag, digest):
                continue
            if copied and await self._is_collected(name, digest, None):
                continue
            if await self._source_digest(name, tag) not in {digest, None}:
                continue  # moved meanwhile
            if not copied and not await self._is_deleted(name, digest):
                self._problem(f"{name}:{tag}", f"left out, as {digest} is")
            return
        self._problem(f"{name}:{tag}", "it was moved too often during the copy")

    async def _source_digest(self, name: RepoName, tag: Tag) -> Digest | None:
        """Return the manifest that the source's tag points at; None if the tag is dead, deleted or torn."""
        key = layout.tag_link(name, tag)
        digest, when = await resolve(self._source, key)
        if digest is None and when is not ABSENT:
            self._problem(key, _TORN)
        if digest is None or not await has_link(self._source, layout.revision_link(name, digest)):
            return None
        return digest

    async def _point(self, name: RepoName, tag: Tag, digest: Digest) -> bool:
        """Move the destination's tag; False if another process moved it at the same moment."""
        key = layout.tag_link(name, tag)
        found, when = await resolve(self._target, key)
        if found == digest:
            await self._write_history(name, tag, digest)
            return True
        if found is not None and not await self._may_move(name, tag, found):
            self.tally.kept += 1
            self._problem(f"{name}:{tag}", f"left unchanged: it was moved to {found} at the destination")
            return True
        if not self._options.dry_run:
            try:
                await self._target.write(key, str(digest).encode(), when)
            except Conflict:
                return False
            await self._write_history(name, tag, digest)
        self.tally.tags += 1
        return True

    async def _write_history(self, name: RepoName, tag: Tag, digest: Digest) -> None:
        """Write the tag's history, after the tag: CNCF Distribution lists a tag that has only a history."""
        key = layout.tag_history_link(name, tag, digest)
        if not self._options.dry_run and not await has_link(self._target, key):
            await write_link(self._target, key, digest)

    async def _may_move(self, name: RepoName, tag: Tag, found: Digest) -> bool:
        if self._options.overwrite or not await has_link(self._target, layout.revision_link(name, found)):
            return True
        return await has_link(self._source, layout.tag_history_link(name, tag, found))
