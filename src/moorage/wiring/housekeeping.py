"""Background jobs of the registry, run by the housekeeper of each node (`server/housekeeper/`).

Each job opens a storage driver of its own when it runs.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage import __version__
from moorage.errors import RegistryError
from moorage.registry import nodes
from moorage.registry.lease import Lease
from moorage.registry.purge import Purger
from moorage.registry.storage_errors import refusing
from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.storage.driver import StorageError
from moorage.wiring.storage import make_driver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.config.model import Settings
    from moorage.config.sections.retention import Retention
    from moorage.config.sections.storage import Storage
    from moorage.storage.driver import Driver

__all__ = ["GarbageCollectionJob", "NodeRecordJob", "StorageProbe", "UploadPurgingJob", "jobs", "make_purger"]

_PROBLEMS: Final = 10
"""Problems of a run that are logged one by one; the command prints all."""
_log: Final = structlog.get_logger("moorage.collection")

_TERM_INTERVALS: Final = 1.5
"""Term of the purging lease, in intervals: the owner extends it once per interval, and clocks differ."""
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
    if _purges(settings):
        found.append(UploadPurgingJob(storage, instance, settings))
    if storage.maintenance.readonly.enabled:
        return found
    found.append(NodeRecordJob(storage, instance, settings))
    if storage.maintenance.garbagecollection.enabled:
        found.append(GarbageCollectionJob(storage, settings.retention, instance, settings))
    return found


def make_purger(driver: Driver, settings: Settings, lease: Lease | None = None) -> Purger | None:
    """Return the purger that `storage.maintenance.uploadpurging` configures, if any."""
    if not _purges(settings):
        return None
    purging = settings.storage.maintenance.uploadpurging
    return Purger(driver, age_s=purging.age, interval_s=purging.interval, dry_run=purging.dryrun, lease=lease)


def _purges(settings: Settings) -> bool:
    maintenance = settings.storage.maintenance
    return maintenance.uploadpurging.enabled and not maintenance.readonly.enabled


@dataclass(frozen=True)
class StorageProbe(Job):
    """Accesses a bucket once at start: an unusable one is logged now, not at the first push."""

    name: ClassVar[str] = "first storage probe"

    storage: Storage
    settings: Settings = field(compare=False, repr=False)

    async def run(self, context: JobContext) -> None:
        del context
        driver = make_driver(self.settings)
        try:
            # `refusing` has logged the cause.
            with suppress(RegistryError), refusing():
                await driver.probe()
        finally:
            await driver.close()


@dataclass(frozen=True)
class UploadPurgingJob(Job):
    """Purges uploads and half-written tags by age, on one node of the cluster at a time."""

    name: ClassVar[str] = "upload purging"

    storage: Storage
    instance: str
    settings: Settings = field(compare=False, repr=False)

    async def run(self, context: JobContext) -> None:
        del context
        driver = make_driver(self.settings)
        try:
            term_s = _TERM_INTERVALS * self.storage.maintenance.uploadpurging.interval
            lease = Lease(driver, "upload-purging", self.instance, term_s=term_s)
            purger = make_purger(driver, self.settings, lease)
            if purger is not None:
                await purger.run()
        finally:
            await driver.close()


@dataclass(frozen=True)
class NodeRecordJob(Job):
    """Publishes the release of this node, so that a collector does not run beside one that it does not know.

    Every node that writes does, whether it collects itself or not (`registry/nodes.py`).
    """

    name: ClassVar[str] = "node record"

    storage: Storage
    instance: str
    settings: Settings = field(compare=False, repr=False)

    async def run(self, context: JobContext) -> None:
        del context
        driver = make_driver(self.settings)
        failed = False
        try:
            while True:
                try:
                    await nodes.publish(driver, self.instance, __version__)
                    failed = False
                except StorageError as error:
                    if not failed:
                        _log.warning("this node cannot publish its release in the store", cause=str(error))
                    failed = True
                await asyncio.sleep(nodes.PUBLISH_S)
        finally:
            with suppress(StorageError):
                await nodes.retract(driver, self.instance)
            await driver.close()


@dataclass(frozen=True)
class GarbageCollectionJob(Job):
    """Collects garbage once per interval, on one node of the cluster (`collection_schedule.py`)."""

    name: ClassVar[str] = "garbage collection"

    storage: Storage
    retention: Retention
    instance: str
    settings: Settings = field(compare=False, repr=False)

    async def run(self, context: JobContext) -> None:
        del context
        # Only here: a node that does not collect does not load the collector.
        from moorage.wiring.collection_schedule import CollectionSchedule, keep_reserve
        from moorage.wiring.garbage_collection import collection_options, log_fields, process_name, run_collection

        settings = self.settings
        collection = self.storage.maintenance.garbagecollection
        driver = make_driver(settings)

        async def collect() -> Mapping[str, object]:
            options = collection_options(settings)
            report = await run_collection(settings, driver, options, owner=process_name())
            for problem in report.problems[:_PROBLEMS]:
                _log.warning("skipped by garbage collection, and kept", key=problem.key, cause=problem.reason)
            return log_fields(report)

        try:
            if self.storage.filesystem is not None and not collection.foreignwriters:
                await keep_reserve(driver)
            schedule = CollectionSchedule(
                driver, collect, interval_s=collection.interval, reports_only=collection.foreignwriters
            )
            await schedule.run()
        finally:
            await driver.close()
