"""Eviction from the pull-through cache: a pass over the mirrored repositories, and the job of the housekeeper.

    look     walk the mirrored repositories: families, their bytes, the times of their last pulls
    decide   `proxy/eviction.py`
    remove   each repository of which anything goes is read again, with the times of now; a family that was pulled,
             stored again, pinned or taken into another one since stays.  Then its tags go, each only if it is
             unchanged, and its manifests, each only while its revision link is the one that was read

Links of layers and bytes are left to garbage collection.  Nothing is recorded in the trash: what was evicted comes
back from the upstream when it is requested.

Races.  Processes write the times of pulls every `retention.pulls.flush` seconds, so a pull that the last look does
not see is younger than that.  Its client has the manifest, and layer links and bytes stay until a collection has
condemned them and waited; after that a proxy fetches them again.  A push between revision link and tag, whose
revision link is removed in between, leaves a dead tag: the next pull of the tag resolves it at the upstream.

Above: `housekeeping.py`.  Below: `proxy/eviction.py`, `retention/facts.py`, `registry/`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage.concurrency import map_bounded
from moorage.errors import ManifestUnknown
from moorage.proxy.eviction import CachedContent, CachedFamily, EvictionTimes
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.lease import Lease
from moorage.registry.links import REVISION, Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.manifests import StoredManifests
from moorage.registry.pulls import PullTimes
from moorage.registry.stamps import utc_now
from moorage.registry.tags import TagStore
from moorage.registry.trash import Trash
from moorage.registry.walk import list_digests, visit_repositories
from moorage.retention.facts import FactsReader
from moorage.retention.families import FamilyGraph, in_order_of_removal, top_level
from moorage.storage.driver import KeyMissing, RequestCost, StorageError
from moorage.wiring.cache import make_sizes
from moorage.wiring.protection import make_protection
from moorage.wiring.proxy import CacheLimits, cache_limits
from moorage.wiring.quota import want_count
from moorage.wiring.store_job import TERM_INTERVALS, StoreJob, repeat_with_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from moorage.config.model import Settings
    from moorage.config.sections.retention import Immutability, Retention
    from moorage.proxy.eviction import Eviction, MirrorLimits
    from moorage.registry.protection import Protection
    from moorage.registry.tags import TagState
    from moorage.registry.walk import RepositoryListing
    from moorage.retention.families import Facts
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName, Tag

__all__ = ["EvictionJob", "EvictionSummary", "UpstreamUsage", "evict"]

_IDLE_S: Final = 600.0
"""Least time since the last pull of what is evicted: its client pulls its blobs."""
_FLUSHES: Final = 2.0
"""As many times of writing pulls, at least, have passed since."""
_RELOAD_S: Final = 30.0
"""Age of times of pulls at which they are read again before a removal."""
_LOCAL_INTERVAL_S: Final = 600.0
_REMOTE_INTERVAL_S: Final = 3600.0
"""A pass reads every mirrored manifest, and a bucket charges for each."""
_LEASE: Final = "mirror-eviction"
_log: Final = structlog.get_logger("moorage.proxy")


@dataclass(slots=True)
class UpstreamUsage:
    """Bytes of the content of one upstream before and after a pass."""

    limits: MirrorLimits
    before: int
    after: int


@dataclass(slots=True)
class EvictionSummary:
    """Result of a pass.  `kept`: families that were to go, and stay since they were used or changed meanwhile."""

    families: int = 0
    manifests: int = 0
    tags: int = 0
    kept: int = 0
    usage: list[UpstreamUsage] = field(default_factory=list)


async def evict(
    driver: Driver,
    settings: Settings,
    limits_of: Callable[[RepoName], MirrorLimits | None],
    *,
    now: Callable[[], datetime] = utc_now,
) -> EvictionSummary:
    """Evict what exceeds the limits, which `limits_of` returns for mirrored repositories.

    Raises StorageUnavailable.
    """
    sizes = make_sizes(settings)
    try:
        links = Links(driver, sizes=sizes)
        store = BlobStore(driver, sizes=sizes)
        contents = ManifestContents(store, cache_bytes=8 << 20)
        tags = TagStore(driver, links=links)
        manifests = StoredManifests(driver, store=store, links=links, tags=tags, contents=contents)
        facts = FactsReader(driver, tags, contents, Trash(driver, keep_s=0))
        idle_s = max(_IDLE_S, _FLUSHES * settings.retention.pulls.flush)
        run = _Pass(driver, facts, tags, links, manifests, make_protection(settings), idle_s, now)
        summary = await run.run(limits_of)
    finally:
        await sizes.close()
    if summary.manifests or summary.tags:
        await want_count(driver, settings)
    return summary


class _Families:
    """The families of one repository, and the number of those that contain a manifest."""

    def __init__(self, facts: Facts, protection: Protection) -> None:
        self.facts = facts
        self._graph = FamilyGraph(facts)
        self.roots = set(top_level(facts, facts.manifests))
        self.users: Counter[Digest] = Counter()
        for root in self.roots:
            self.users.update(self.members(root))
        self.tags: dict[Digest, list[TagState]] = {}
        self._named: dict[Digest, list[tuple[Tag, datetime | None]]] = {}
        """Tags that named a manifest, with the time until which they did, or None if they do."""
        self._pinned = protection.holds.digests(facts.name) & facts.manifests.keys()
        for state in facts.alive():
            self.tags.setdefault(state.digest, []).append(state)
            if protection.from_deletion(facts.name, state.tag) is not None:
                self._pinned |= {state.digest}
            for digest, until in _past(state):
                self._named.setdefault(digest, []).append((state.tag, until))

    def members(self, root: Digest) -> set[Digest]:
        return self._graph.closure([root])

    def is_pinned(self, members: set[Digest]) -> bool:
        """Return whether a hold or an immutable tag keeps any of them, or one cannot be read."""
        return not self._pinned.isdisjoint(members) or not all(
            self.facts.manifests[digest].readable for digest in members
        )

    def used(self, members: set[Digest], times: PullTimes) -> float:
        """Return when any of them was last pulled, by its digest or a tag, or stored."""
        found = [self.facts.manifests[digest].modified for digest in members]
        name = self.facts.name
        for digest in members:
            if (at := times.last(name, digest)) is not None:
                found.append(at)
            for tag, until in self._named.get(digest, ()):
                if (at := times.last(name, tag)) is not None:
                    found.append(at if until is None else min(at, until))
        return max(found).timestamp()

    def as_cached(self, present: set[Digest], times: PullTimes) -> Iterator[CachedFamily]:
        """Yield the families; `present` are the blobs that the repository has."""
        manifests = self.facts.manifests
        for root in self.roots:
            members = self.members(root)
            content = {digest: manifests[digest].size for digest in members}
            for digest in members:
                content |= {blob: size for blob, size in manifests[digest].blobs if blob in present}
            yield CachedFamily(
                self.facts.name, root, self.used(members, times), content, is_pinned=self.is_pinned(members)
            )


def _past(state: TagState) -> Iterator[tuple[Digest, datetime | None]]:
    """Yield the manifests that a tag names or named, with the time until which it did."""
    yield state.digest, None
    earlier = sorted((at, digest) for digest, at in state.entries.items() if digest != state.digest)
    for (_, digest), (until, _) in pairwise([*earlier, (state.modified, state.digest)]):
        yield digest, until


class _Pass:
    """One pass over a store."""

    def __init__(
        self,
        driver: Driver,
        facts: FactsReader,
        tags: TagStore,
        links: Links,
        manifests: StoredManifests,
        protection: Protection,
        idle_s: float,
        now: Callable[[], datetime],
    ) -> None:
        self._driver = driver
        self._facts = facts
        self._tags = tags
        self._links = links
        self._manifests = manifests
        self._protection = protection
        self._idle_s = idle_s
        self._now = now
        self._times = PullTimes(driver)
        self._loaded = 0.0
        self._loading = asyncio.Lock()
        self._summary = EvictionSummary()

    async def run(self, limits_of: Callable[[RepoName], MirrorLimits | None]) -> EvictionSummary:
        times = await self._current_times()
        caches: dict[str, CachedContent] = {}

        async def visit(listing: RepositoryListing) -> None:
            limits = limits_of(listing.name)
            if limits is None:
                return
            cache = caches.setdefault(limits.upstream, CachedContent(limits, idle_s=self._idle_s))
            families = _Families(await self._facts.read(listing.name), self._protection)
            for family in families.as_cached(await self._present(listing.name), times):
                cache.add(family)

        await visit_repositories(self._driver, visit, with_manifests=True)
        moment = EvictionTimes(self._now().timestamp(), None if times.since is None else times.since.timestamp())
        going: dict[RepoName, list[Eviction]] = {}
        for cache in caches.values():
            usage = UpstreamUsage(cache.limits, cache.total_bytes, 0)
            for eviction in cache.evict(moment):
                going.setdefault(eviction.name, []).append(eviction)
            usage.after = cache.total_bytes
            self._summary.usage.append(usage)
        caches.clear()
        self._loaded = 0.0  # the walk may have taken long
        await map_bounded(going.items(), lambda item: self._repository(*item))
        return self._summary

    async def _present(self, name: RepoName) -> set[Digest]:
        found: set[Digest] = set()
        async for page in list_digests(self._driver, layout.layers(name)):
            found.update(page)
        return found

    async def _current_times(self) -> PullTimes:
        """Return the times of pulls, not older than `_RELOAD_S`."""
        async with self._loading:
            now = self._now().timestamp()
            if now - self._loaded >= _RELOAD_S:
                times = PullTimes(self._driver)
                await times.load(now=now)
                self._times, self._loaded = times, now
            return self._times

    async def _repository(self, name: RepoName, evictions: Sequence[Eviction]) -> None:
        """Remove families of one repository, as far as nothing has changed since they were decided on."""
        families = _Families(await self._facts.read(name), self._protection)
        for eviction in evictions:
            if not await self._family(families, eviction):
                self._summary.kept += 1

    async def _family(self, families: _Families, eviction: Eviction) -> bool:
        """Remove one family; return whether it, or what of it no other one contains, is gone."""
        facts = families.facts
        if eviction.root not in families.roots:
            return False  # deleted, or part of an index that was stored since
        members = families.members(eviction.root)
        times = await self._current_times()
        if families.is_pinned(members) or families.used(members, times) > eviction.used:
            return False
        going = in_order_of_removal(facts, sorted(digest for digest in members if families.users[digest] == 1))
        if not all(await map_bounded(going, lambda digest: self._is_unchanged(facts, digest))):
            return False
        for digest in going:
            for state in families.tags.get(digest, ()):
                if not await self._tags.remove_unchanged(facts.name, state):
                    return False
                self._summary.tags += 1
        removed = 0
        for digest in going:
            if not await self._is_unchanged(facts, digest):
                return False
            try:
                await self._manifests.evict(facts.name, digest)
            except ManifestUnknown:
                continue  # deleted by a client meanwhile
            removed += 1
            self._summary.manifests += 1
        families.roots.discard(eviction.root)
        families.users.subtract(members)
        self._summary.families += 1
        _log.info(
            "evicted from the cache",
            repository=facts.name,
            digest=str(eviction.root),
            manifests=removed,
            freeable_bytes=eviction.freed_bytes,
            reason=eviction.reason,
        )
        return True

    async def _is_unchanged(self, facts: Facts, digest: Digest) -> bool:
        try:
            stat = await self._driver.stat(self._links.key(REVISION, facts.name, digest))
        except KeyMissing:
            return True  # deleted meanwhile, as `evict` finds out
        return stat.modified == facts.manifests[digest].modified


@dataclass(frozen=True)
class EvictionJob(StoreJob):
    """Evicts periodically what exceeds the limits of mirrors, on one node of the cluster at a time."""

    name: ClassVar[str] = "eviction from the cache"

    retention: Retention
    immutability: Immutability
    limits: CacheLimits

    @classmethod
    def needed(cls, settings: Settings, instance: str) -> EvictionJob | None:
        """Return the job, None if the settings need none."""
        limits = cache_limits(settings)
        if settings.storage.driver == "inmemory" or settings.storage.maintenance.readonly.enabled:
            return None
        if not limits.evicts:
            return None
        return cls(settings.storage, instance, settings, settings.retention, settings.immutability, limits)

    async def work(self, driver: Driver) -> None:
        is_local = driver.request_cost is RequestCost.LOCAL
        interval_s = _LOCAL_INTERVAL_S if is_local else _REMOTE_INTERVAL_S
        lease = Lease(driver, _LEASE, self.instance, term_s=TERM_INTERVALS * interval_s)

        async def once() -> None:
            await self.once(driver, lease)

        within_s = interval_s / 10
        await repeat_with_lease(lease, once, interval_s, first_within_s=within_s, name="eviction", log=_log)

    async def once(self, driver: Driver, lease: Lease) -> EvictionSummary | None:
        """Do one pass if this node holds the lease.  A failing store ends the pass."""
        try:
            if not await lease.acquire():
                return None
            summary = await evict(driver, self.settings, self.limits.of)
            await lease.acquire()  # a pass may take long: the term is counted from its end
        except StorageError as error:
            _log.error("eviction from the cache failed, and is tried again after its interval", cause=str(error))
            return None
        for usage in summary.usage:
            limit = usage.limits.max_bytes
            if limit is not None and usage.after > limit:
                _log.warning(
                    "the cache of an upstream is above its limit: what is left is held, immutable or was pulled "
                    "within minutes; raise the limit if this persists",
                    upstream=usage.limits.upstream,
                    bytes=usage.after,
                    limit=limit,
                )
        if summary.families or summary.kept:
            _log.info(
                "eviction from the cache has ended",
                families=summary.families,
                manifests=summary.manifests,
                tags=summary.tags,
                kept=summary.kept,
            )
        return summary
