"""Job: background work in the housekeeper.  A job that fails is started again and does not affect the others."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage.server.processes.restart_backoff import RestartBackoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Job", "JobContext", "keep_running"]

_log: Final = structlog.get_logger("moorage.housekeeper")


@dataclass(slots=True)
class JobContext:
    """Connection of a running job to the master.

    `report` sends a message of `process.py`.  `on_reload` is called after a reload that has not changed the job's
    settings: the operator may have corrected what it waits for.
    """

    report: Callable[[bytes], None]
    on_reload: Callable[[], None] = lambda: None


class Job(ABC):
    """Background work of a node, described by its settings.

    Jobs are created in the master, cheaply, and compared: the housekeeper is replaced when one of them differs.
    They open files, connect and import heavy libraries in `run`, which is called in the housekeeper only.
    """

    name: ClassVar[str]
    runs_last: ClassVar[bool] = False
    """True: runs until the workers have ended; other jobs are cancelled at the beginning of the shutdown."""

    @abstractmethod
    async def run(self, context: JobContext) -> None:
        """Do the work until it is finished, or cancelled.

        A cancelled job has about two seconds to clean up.  One that raises is run again, after a wait.
        """


async def keep_running(
    job: Job, context: JobContext, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Run `job` until it returns, again after each failure; waits grow as those of `RestartBackoff`."""
    backoff = RestartBackoff()
    while True:
        started = time.monotonic()
        try:
            await job.run(context)
        except Exception:  # noqa: BLE001  logged, and tried again
            now = time.monotonic()
            wait_s = backoff.after(now, now - started)
            _log.exception("a job of the housekeeper failed; it is started again", job=job.name, in_seconds=wait_s)
        else:
            return
        context.on_reload = _nothing
        await sleep(wait_s)


def _nothing() -> None:
    """Ignore a reload while the job does not run."""
