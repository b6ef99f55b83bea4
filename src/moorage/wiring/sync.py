"""Sync: the jobs of the settings, a run of them, and the job of the housekeeper.

Above: `cli/sync.py`, `housekeeping.py`.  Below: `replication.py`, `moorage/replication/sync.py`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage.patterns import Glob
from moorage.registry.interface import Caller
from moorage.registry.lease import Lease
from moorage.registry.tag_selection import TagSelector
from moorage.replication.local import LocalTarget
from moorage.replication.platforms import ImagePlatform
from moorage.replication.rate import RateLimit
from moorage.replication.remote import RemoteSource, RemoteTarget
from moorage.replication.report import SyncOutcome, SyncReport, SyncRow
from moorage.replication.requests import ReplicationOptions
from moorage.replication.selection import RepositorySelection
from moorage.replication.sync import SyncJob, SyncRun
from moorage.startup import StartupError
from moorage.storage.driver import StorageError
from moorage.wiring.replication import make_settings_client, opened_registry
from moorage.wiring.store_job import TERM_INTERVALS, StoreJob, repeat_with_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from moorage.config.model import Settings
    from moorage.config.sections.sync import (
        CopiedRepositories,
        RemoteRegistry,
        Sync,
        SyncJobSettings,
    )
    from moorage.replication.endpoints import ImageTarget
    from moorage.replication.progress import ReplicationProgress
    from moorage.storage.driver import Driver
    from moorage.upstream.client import RegistryClient

__all__ = ["RegistrySyncJob", "make_selection", "run_sync", "writes_here"]

_RENEWALS: Final = 3
"""Renewals of the lease within its term: a run may take longer than the interval."""
_FIRST_RUN_WITHIN_S: Final = 600.0
_CALLER: Final = Caller("moorage sync")
"""Recorded with the tags that a run sets."""
_EVENTS: Final = {
    SyncOutcome.COPIED: ("sync copied an image", logging.INFO),
    SyncOutcome.PRESENT: ("sync found an image up to date", logging.DEBUG),
    SyncOutcome.SKIPPED: ("sync skipped an image of other platforms", logging.DEBUG),
    SyncOutcome.MISSING: ("sync misses content in a source", logging.WARNING),
    SyncOutcome.FAILED: ("sync failed to copy an image", logging.WARNING),
    SyncOutcome.NOT_TRIED: ("sync left an image to the next run", logging.DEBUG),
}
"""Lines of the log for the rows of a report; the totals are at the end, with those that are not shown."""
_log: Final = structlog.get_logger("moorage.sync")


def make_selection(repositories: CopiedRepositories) -> RepositorySelection:
    """Return the selection of checked settings."""
    tags = repositories.tags
    return RepositorySelection(
        Glob.parse(repositories.match),
        TagSelector.parse(match=tags.match, regex=tags.regex, semver=tags.semver, exceptions=tags.except_),
        tags.newest,
        tuple(map(ImagePlatform.parse, repositories.platforms)),
        repositories.referrers,
        repositories.target,
    )


def writes_here(settings: Settings, names: Collection[str] = ()) -> bool:
    """Return whether a job, of those named if any are, has this registry as its target."""
    return any(job.target is None for job in _selected(settings, names))


def _selected(settings: Settings, names: Collection[str]) -> list[SyncJobSettings]:
    return [job for job in settings.sync.jobs if not names or job.name in names]


async def run_sync(
    settings: Settings,
    driver: Driver | None,
    *,
    names: Collection[str] = (),
    dry_run: bool = False,
    recheck: bool = False,
    done: Callable[[SyncRow], None] = lambda _: None,
    progress: ReplicationProgress | None = None,
) -> SyncReport:
    """Run the jobs, or those with one of `names`, one after another; `done` is called with each row.

    `driver` may be None if no job writes to this registry.  Raises StartupError if a client cannot be made.
    """
    sync = settings.sync
    report = SyncReport()
    options = ReplicationOptions(
        dry_run=dry_run,
        recheck=recheck,
        rate=None if sync.ratelimit is None else RateLimit(sync.ratelimit),
    )

    def count(row: SyncRow) -> None:
        report.add(row)
        done(row)

    async with AsyncExitStack() as stack:
        here: ImageTarget | None = None
        if driver is not None:
            registry = await stack.enter_async_context(opened_registry(settings, driver))
            here = LocalTarget(registry, title="this registry", caller=_CALLER)
        for job in _selected(settings, names):
            source = await _client(stack, job.source)
            target = here
            if job.target is not None:
                target = RemoteTarget(await _client(stack, job.target), denied_is_absent=not dry_run)
            assert target is not None, "a driver is passed where a job writes to this registry"
            planned = SyncJob(
                job.name,
                tuple(map(make_selection, job.repositories)),
                target_registry="" if job.target is None else target.title,
                mount=job.target is not None and source.host == target.title,
            )
            await SyncRun(
                planned,
                RemoteSource(source),
                target,
                done=count,
                options=options,
                parallelism=sync.parallelism,
                progress=progress,
            ).run()
    return report


async def _client(stack: AsyncExitStack, remote: RemoteRegistry) -> RegistryClient:
    client = make_settings_client(remote)
    stack.push_async_callback(client.close)
    return client


@dataclass(frozen=True)
class RegistrySyncJob(StoreJob):
    """Runs the jobs of `sync` periodically, on one node of the cluster at a time."""

    name: ClassVar[str] = "sync"

    sync: Sync

    @classmethod
    def needed(cls, settings: Settings, instance: str) -> RegistrySyncJob | None:
        """Return the job, None if the settings need none."""
        sync = settings.sync
        readonly = settings.storage.maintenance.readonly.enabled and writes_here(settings)
        if settings.storage.driver == "inmemory" or readonly or not sync.enabled or not sync.jobs:
            return None
        return cls(settings.storage, instance, settings, sync)

    async def work(self, driver: Driver) -> None:
        interval_s = self.sync.interval
        lease = Lease(driver, "sync", self.instance, term_s=TERM_INTERVALS * interval_s)

        async def once() -> None:
            await self.once(driver, lease)

        within_s = min(_FIRST_RUN_WITHIN_S, interval_s)
        await repeat_with_lease(lease, once, interval_s, first_within_s=within_s, name="sync", log=_log)

    async def once(self, driver: Driver, lease: Lease) -> SyncReport | None:
        """Do one run if this node holds the lease.  A failing store ends the run."""
        dry_run = self.sync.dryrun
        try:
            if not await lease.acquire():
                return None
            renewal = asyncio.create_task(self._renew(lease), name="lease of sync")
            try:
                report = await run_sync(self.settings, driver, dry_run=dry_run, done=self._log_row)
            finally:
                renewal.cancel()
                await asyncio.wait([renewal])
            await lease.acquire()  # the term is counted from the end of the run
        except (StorageError, StartupError) as error:
            _log.error("sync failed, and is tried again after its interval", cause=str(error))
            return None
        write = _log.info if report.is_complete else _log.error
        write(
            "sync is complete" if report.is_complete else "sync is not complete; the next run tries again",
            dry_run=dry_run,
            bytes=report.counts.blob_bytes,
            **{outcome.value.replace(" ", "_"): count for outcome, count in report.outcomes.items()},
        )
        return report

    async def _renew(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(TERM_INTERVALS * self.sync.interval / _RENEWALS)
            try:
                await lease.acquire()
            except StorageError as error:
                _log.warning("the lease of sync cannot be renewed", cause=str(error))

    def _log_row(self, row: SyncRow) -> None:
        event, level = _EVENTS[row.outcome]
        if row.outcome is SyncOutcome.COPIED and self.sync.dryrun:
            event = "sync would copy an image"
        _log.log(
            level,
            event,
            job=row.job,
            source=row.source,
            target=row.target,
            digest=str(row.digest or ""),
            reason=row.reason,
        )
