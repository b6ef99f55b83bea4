"""Retention: the rules of the settings, a run over the store, and the job of the housekeeper."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage.patterns import Glob
from moorage.registry.blob_store import BlobStore
from moorage.registry.collection_gate import CollectionGate
from moorage.registry.history import TagHistory
from moorage.registry.lease import Lease
from moorage.registry.links import Links
from moorage.registry.manifest_contents import ManifestContents
from moorage.registry.manifests import StoredManifests
from moorage.registry.pulls import HORIZON_S, PullRecorder, PullTimes
from moorage.registry.tag_selection import TagSelector
from moorage.registry.tags import TagStore
from moorage.registry.trash import Trash
from moorage.registry.walk import visit_repositories
from moorage.retention.decide import Pulls
from moorage.retention.facts import FactsReader
from moorage.retention.rules import RetentionPolicy, TagRule
from moorage.retention.run import RetentionRun, RetentionStore
from moorage.storage.driver import StorageError
from moorage.wiring.cache import make_sizes
from moorage.wiring.protection import make_protection
from moorage.wiring.proxy import CacheLimits, cache_limits
from moorage.wiring.quota import want_count
from moorage.wiring.store_job import TERM_INTERVALS, StoreJob, repeat_with_lease

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.model import Settings
    from moorage.config.sections.retention import Immutability, Retention, RetentionRule
    from moorage.registry.sizes import Sizes
    from moorage.registry.walk import RepositoryListing
    from moorage.retention.run import RepositoryResult
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["RetentionJob", "RetentionSummary", "apply_retention", "make_policy", "make_pulls", "records_pulls"]

_FIRST_RUN_WITHIN_S: Final = 600.0
_log: Final = structlog.get_logger("moorage.retention")


def records_pulls(settings: Settings) -> bool:
    """Return whether the times of pulls are recorded: a rule or the limits of a cache need them, or it is set."""
    if settings.storage.maintenance.readonly.enabled:
        return False
    retention = settings.retention
    by_rule = any(rule.pulledwithin is not None for rule in retention.rules)
    return retention.pulls.enabled or by_rule or cache_limits(settings).evicts


def make_pulls(driver: Driver, settings: Settings) -> PullRecorder | None:
    """Return the recorder of one process, None if pulls are not recorded."""
    return PullRecorder(driver, flush_s=settings.retention.pulls.flush) if records_pulls(settings) else None


def make_policy(settings: Settings) -> RetentionPolicy:
    """Return the rules of checked settings."""
    retention = settings.retention
    after = retention.untagged.after
    return RetentionPolicy(
        tuple(_rule(index, rule) for index, rule in enumerate(retention.rules)),
        None if after is None else timedelta(seconds=after),
        tuple(map(Glob.parse, retention.untagged.repositories)),
        make_protection(settings),
    )


def _rule(index: int, rule: RetentionRule) -> TagRule:
    def span(seconds: float | None) -> timedelta | None:
        return None if seconds is None else timedelta(seconds=seconds)

    tags = rule.tags
    return TagRule(
        rule.name or f"rules[{index}]",
        tuple(map(Glob.parse, rule.repositories)),
        TagSelector.parse(match=tags.match, regex=tags.regex, semver=tags.semver, exceptions=tags.except_),
        rule.keeplast,
        span(rule.pushedwithin),
        span(rule.pulledwithin),
        rule.keepall,
    )


@dataclass(slots=True)
class RetentionSummary:
    """Result of a run.  `unmatched`: owners and patterns that match no repository; `restored`: manifests that a
    push has tagged while they were deleted.
    """

    repositories: int = 0
    tags: int = 0
    manifests: int = 0
    freeable_bytes: int = 0
    changed: int = 0
    unreadable: int = 0
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    restored: list[tuple[RepoName, Digest]] = field(default_factory=list)

    def add(self, result: RepositoryResult, *, dry_run: bool) -> None:
        self.repositories += 1
        self.tags += len(result.plan.removed_tags if dry_run else result.tags)
        self.manifests += len(result.plan.manifests if dry_run else result.manifests)
        self.freeable_bytes += result.plan.freeable_bytes
        self.changed += len(result.changed)
        self.unreadable += not result.readable


async def apply_retention(
    driver: Driver,
    settings: Settings,
    *,
    dry_run: bool,
    done: Callable[[RepositoryResult], None] = lambda _: None,
) -> RetentionSummary:
    """Examine every repository, and delete what the rules do not keep, or with `dry_run` only find it.

    `done` is called with the result of each repository.  Raises StorageUnavailable.
    """
    policy = make_policy(settings)
    times = PullTimes(driver)
    if policy.needs_pulls or policy.untagged_after is not None:
        await times.load()
    sizes = make_sizes(settings)
    store = _store(driver, settings, sizes)
    run = RetentionRun(store, policy, Pulls(times.last, times.since), dry_run=dry_run)
    summary = RetentionSummary()
    names: list[RepoName] = []

    async def visit(listing: RepositoryListing) -> None:
        names.append(listing.name)
        result = await run.repository(listing.name)
        summary.add(result, dry_run=dry_run)
        done(result)

    try:
        await visit_repositories(driver, visit, with_manifests=True)
    finally:
        summary.restored += await run.settle()
        await store.history.close()
        await store.gate.close()
        await sizes.close()
        if not dry_run and (summary.tags or summary.manifests):
            await want_count(driver, settings)
    summary.unmatched += policy.unmatched(names)
    return summary


def _store(driver: Driver, settings: Settings, sizes: Sizes) -> RetentionStore:
    """Return the parts that a run uses.  Nothing waits for leases of links: no client waits for the deletion."""
    links = Links(driver, sizes=sizes)
    tags = TagStore(driver, links=links)
    store = BlobStore(driver, sizes=sizes)
    contents = ManifestContents(store, cache_bytes=8 << 20)
    manifests = StoredManifests(
        driver, delete_enabled=True, store=store, links=links, tags=tags, contents=contents
    )
    trash = Trash(driver, keep_s=settings.storage.delete.undo)
    return RetentionStore(
        driver,
        tags,
        links,
        manifests,
        trash,
        FactsReader(driver, tags, contents, trash),
        TagHistory(driver),
        CollectionGate(driver, store, links),
    )


@dataclass(frozen=True)
class RetentionJob(StoreJob):
    """Applies the rules periodically and compacts the times of pulls, on one node of the cluster at a time."""

    name: ClassVar[str] = "retention"

    retention: Retention
    immutability: Immutability
    limits: CacheLimits

    @classmethod
    def needed(cls, settings: Settings, instance: str) -> RetentionJob | None:
        """Return the job, None if the settings need none."""
        applies = settings.retention.enabled and not settings.storage.maintenance.readonly.enabled
        if settings.storage.driver == "inmemory" or not (applies or records_pulls(settings)):
            return None
        sections = settings.retention, settings.immutability, cache_limits(settings)
        return cls(settings.storage, instance, settings, *sections)

    async def work(self, driver: Driver) -> None:
        interval_s = self.retention.interval
        lease = Lease(driver, "retention", self.instance, term_s=TERM_INTERVALS * interval_s)

        async def once() -> None:
            await self.once(driver, lease)

        within_s = min(_FIRST_RUN_WITHIN_S, interval_s)
        await repeat_with_lease(lease, once, interval_s, first_within_s=within_s, name="retention", log=_log)

    async def once(self, driver: Driver, lease: Lease) -> RetentionSummary | None:
        """Do one pass if this node holds the lease.  A failing store ends the pass."""
        dry_run = self.retention.dryrun
        try:
            if not await lease.acquire():
                return None
            if records_pulls(self.settings):
                longest_s = max(
                    0.0,
                    *(rule.pulledwithin or 0.0 for rule in self.retention.rules),
                    *(limits.ttl_s for _, limits in self.limits.by_prefix),
                )
                await PullTimes(driver).compact(horizon_s=max(HORIZON_S, 1.1 * longest_s))
            if not self.retention.enabled:
                return None
            summary = await apply_retention(driver, self.settings, dry_run=dry_run, done=self._log_result)
            await lease.acquire()  # a pass may take hours: the term is counted from its end
        except StorageError as error:
            _log.error("retention failed, and is tried again after its interval", cause=str(error))
            return None
        _log.info(
            "retention has been applied" if not dry_run else "retention: dry run, nothing was deleted",
            repositories=summary.repositories,
            tags=summary.tags,
            manifests=summary.manifests,
            freeable_bytes=summary.freeable_bytes,
        )
        for owner, pattern in summary.unmatched:
            _log.warning("a pattern of retention matches no repository", owner=owner, pattern=pattern)
        return summary

    def _log_result(self, result: RepositoryResult) -> None:
        done = "would be deleted" if self.retention.dryrun else "deleted"
        for decision in result.plan.removed_tags if self.retention.dryrun else result.tags:
            _log.info(
                f"tag {done} by retention",
                repository=result.plan.name,
                tag=decision.state.tag,
                digest=str(decision.state.digest),
                rule=decision.rule,
                reason=decision.reason,
            )
