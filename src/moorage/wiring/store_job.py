"""Jobs of the housekeeper that work on the store: they get a driver when the store holds a registry, not before.

A data directory that was lost must not be created again by background work: a bare mount point with a layout below
it counts as the registry's (`storage/filesystem/data_directory.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.wiring.storage import opened_driver, wait_for_content

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.config.sections.storage import Storage
    from moorage.storage.driver import Driver

__all__ = ["StoreJob"]


@dataclass(frozen=True)
class StoreJob(Job):
    """Background work on the store of `storage`; `instance` names this start of the server in leases.

    Jobs are compared by the sections that they use, which are fields: `settings` is not compared.
    """

    storage: Storage
    instance: str
    settings: Settings = field(compare=False, repr=False)

    @final
    async def run(self, context: JobContext) -> None:
        """Wait until the store holds a registry, then work with a driver of its own, which is closed at the end.

        Raises StartupError if the driver cannot be made.
        """
        del context
        await wait_for_content(self.settings)
        async with opened_driver(self.settings) as driver:
            await self.work(driver)

    @abstractmethod
    async def work(self, driver: Driver) -> None:
        """Do the work until it is finished, or cancelled, with the only driver that the job may use.

        A cancelled job has about two seconds to clean up.  One that raises is run again, after a wait.
        """
