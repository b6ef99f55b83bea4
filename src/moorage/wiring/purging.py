"""Purging of abandoned uploads: the purger of the settings, and its job of the housekeeper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from moorage.registry.lease import Lease
from moorage.registry.purge import Purger
from moorage.wiring.store_job import StoreJob

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.storage.driver import Driver

__all__ = ["UploadPurgingJob", "make_purger", "purges"]

_TERM_INTERVALS: Final = 1.5
"""Term of the purging lease, in intervals: the owner extends it once per interval, and clocks differ."""


def make_purger(driver: Driver, settings: Settings, lease: Lease | None = None) -> Purger | None:
    """Return the purger that `storage.maintenance.uploadpurging` configures, if any."""
    if not purges(settings):
        return None
    purging = settings.storage.maintenance.uploadpurging
    return Purger(driver, age_s=purging.age, interval_s=purging.interval, dry_run=purging.dryrun, lease=lease)


def purges(settings: Settings) -> bool:
    """Return whether `storage.maintenance.uploadpurging` applies."""
    maintenance = settings.storage.maintenance
    return maintenance.uploadpurging.enabled and not maintenance.readonly.enabled


@dataclass(frozen=True)
class UploadPurgingJob(StoreJob):
    """Purges uploads and half-written tags by age, on one node of the cluster at a time."""

    name: ClassVar[str] = "upload purging"

    async def work(self, driver: Driver) -> None:
        term_s = _TERM_INTERVALS * self.storage.maintenance.uploadpurging.interval
        lease = Lease(driver, "upload-purging", self.instance, term_s=term_s)
        purger = make_purger(driver, self.settings, lease)
        if purger is not None:
            await purger.run()
