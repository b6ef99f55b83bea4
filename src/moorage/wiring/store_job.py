"""Jobs of the housekeeper that work on the store: they get a driver when the store holds a registry, not before.

A data directory that was lost must not be created again by background work: a bare mount point with a layout below
it counts as the registry's (`storage/filesystem/data_directory.py`).
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.storage.driver import StorageError
from moorage.wiring.storage import opened_driver, wait_for_content

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.config.model import Settings
    from moorage.config.sections.storage import Storage
    from moorage.registry.lease import Lease
    from moorage.storage.driver import Driver

__all__ = ["TERM_INTERVALS", "StoreJob", "repeat_with_lease"]

TERM_INTERVALS: Final = 1.5
"""Term of the lease of a periodic job, in its intervals."""


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


async def repeat_with_lease(
    lease: Lease,
    once: Callable[[], Awaitable[object]],
    interval_s: float,
    *,
    first_within_s: float,
    name: str,
    log: Any,
) -> None:
    """Do a job periodically until cancelled, first at a random moment, and release its lease at the end.

    `once` acquires the lease, or does nothing.  `name` and `log` are those of a warning if the release fails.
    """
    try:
        await asyncio.sleep(random.uniform(0, first_within_s))  # noqa: S311  no secret
        while True:
            await once()
            await asyncio.sleep(interval_s)
    finally:
        try:
            await lease.release()
        except StorageError as error:
            event = f"the lease of {name} cannot be released; it expires"
            log.warning(event, cause=str(error))
