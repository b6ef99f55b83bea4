"""Background jobs of the registry, run by the housekeeper of each node (`server/housekeeper/`).

A job that works on the store is a `StoreJob`, which gets a driver of its own.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from moorage.errors import RegistryError
from moorage.registry.lease import Lease
from moorage.registry.storage_errors import refusing
from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.wiring.collection_job import collection_jobs
from moorage.wiring.proxy_eviction import EvictionJob
from moorage.wiring.purging import UploadPurgingJob, purges
from moorage.wiring.retention import RetentionJob
from moorage.wiring.storage import opened_driver
from moorage.wiring.store_job import StoreJob
from moorage.wiring.sync import RegistrySyncJob

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.config.sections.quota import Quota
    from moorage.config.sections.storage import Storage
    from moorage.storage.driver import Driver

__all__ = ["StorageProbe", "UsageCountJob", "jobs"]

_COUNT_TERM_S: Final = 3600.0
"""Longer than most counts take; it is released at the end of the server."""


def jobs(settings: Settings, instance: str) -> list[Job]:
    """Return the jobs that `settings` need; `instance` names this start of the server in leases.

    The data of `storage.inmemory` is in its one worker, which purges it itself (`wiring/app.py`).
    """
    storage = settings.storage
    found: list[Job] = []
    if storage.driver == "inmemory":
        return found
    if storage.filesystem is None:
        found.append(StorageProbe(storage, settings))
    if purges(settings):
        found.append(UploadPurgingJob(storage, instance, settings))
    if settings.quota.rules and not storage.maintenance.readonly.enabled:
        found.append(UsageCountJob(storage, instance, settings, settings.quota))
    found += collection_jobs(settings, instance)
    retention = RetentionJob.needed(settings, instance)
    if retention is not None:
        found.append(retention)
    eviction = EvictionJob.needed(settings, instance)
    if eviction is not None:
        found.append(eviction)
    sync = RegistrySyncJob.needed(settings, instance)
    if sync is not None:
        found.append(sync)
    return found


@dataclass(frozen=True)
class StorageProbe(Job):
    """Accesses a bucket once at start: an unusable one is logged now, not at the first push.

    No `StoreJob`: it writes nothing, and an empty bucket is to be accessed as well.
    """

    name: ClassVar[str] = "first storage probe"

    storage: Storage
    settings: Settings = field(compare=False, repr=False)

    async def run(self, context: JobContext) -> None:
        del context
        async with opened_driver(self.settings) as driver:
            # `refusing` has logged the cause.
            with suppress(RegistryError), refusing():
                await driver.probe()


@dataclass(frozen=True)
class UsageCountJob(StoreJob):
    """Counts the usage of quotas, on one node of the cluster at a time."""

    name: ClassVar[str] = "count of usage"

    quota: Quota

    async def work(self, driver: Driver) -> None:
        from moorage.quota.periodic import PeriodicCount  # not imported without quotas

        lease = Lease(driver, "usage-count", self.instance, term_s=_COUNT_TERM_S)
        patterns = [rule.repositories for rule in self.quota.rules]
        await PeriodicCount(driver, patterns, interval_s=self.quota.interval, lease=lease).run()
