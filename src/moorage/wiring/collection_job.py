"""Jobs of the housekeeper for garbage collection: the release of this node in the store, and the runs.

A node that does not collect does not load the collector.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage import __version__
from moorage.registry import nodes
from moorage.storage.driver import StorageError
from moorage.wiring.store_job import StoreJob

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorage.config.model import Settings
    from moorage.config.sections.retention import Retention
    from moorage.server.housekeeper.jobs import Job
    from moorage.storage.driver import Driver

__all__ = ["GarbageCollectionJob", "NodeRecordJob", "collection_jobs"]

_PROBLEMS: Final = 10
"""Problems of a run that are logged one by one; the command prints all."""
_log: Final = structlog.get_logger("moorage.collection")


def collection_jobs(settings: Settings, instance: str) -> Iterator[Job]:
    """Yield the jobs that `settings` need; none in read-only mode, in which a node relies on nothing."""
    storage = settings.storage
    if storage.maintenance.readonly.enabled:
        return
    yield NodeRecordJob(storage, instance, settings)
    if storage.maintenance.garbagecollection.enabled:
        yield GarbageCollectionJob(storage, instance, settings, settings.retention)


@dataclass(frozen=True)
class NodeRecordJob(StoreJob):
    """Publishes the release of this node, so that a collector does not run beside one that it does not know.

    Every node that writes does, whether it collects itself or not (`registry/nodes.py`).
    """

    name: ClassVar[str] = "node record"

    async def work(self, driver: Driver) -> None:
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


@dataclass(frozen=True)
class GarbageCollectionJob(StoreJob):
    """Collects garbage once per interval, on one node of the cluster (`collection_schedule.py`)."""

    name: ClassVar[str] = "garbage collection"

    retention: Retention

    async def work(self, driver: Driver) -> None:
        from moorage.wiring.collection_schedule import CollectionSchedule, keep_reserve
        from moorage.wiring.garbage_collection import collection_options, log_fields, process_name, run_collection

        settings = self.settings
        collection = self.storage.maintenance.garbagecollection

        async def collect() -> Mapping[str, object]:
            options = collection_options(settings)
            report = await run_collection(settings, driver, options, owner=process_name())
            for problem in report.problems[:_PROBLEMS]:
                _log.warning("skipped by garbage collection, and kept", key=problem.key, cause=problem.reason)
            return log_fields(report)

        if self.storage.filesystem is not None and not collection.foreignwriters:
            await keep_reserve(driver)
        schedule = CollectionSchedule(
            driver,
            collect,
            interval_s=collection.interval,
            reports_only=collection.foreignwriters,
            sleep=asyncio.sleep,
        )
        await schedule.run()
