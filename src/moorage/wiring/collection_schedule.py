"""Schedule of garbage collection in the housekeeper: one run per interval in the whole cluster.

    first delay ──► due? ──no──────────────► sleep until it is
                     └─yes─► paused? ──yes─► sleep, look again
                                └────no────► run ──► log ──► sleep for an interval

Due is a question to the store: the last run that ended anywhere, by a command too, counts.  A restart of the
server, or a second node, begins no run earlier.  Runs that only report leave no trace in the store; each node then
counts its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

import structlog

from moorage.gc.errors import CollectionRefused
from moorage.gc.markers import create_reserve
from moorage.gc.report import FINISHED
from moorage.registry import layout
from moorage.registry.collection_pause import read_pause
from moorage.registry.collection_state import ENDED, list_state
from moorage.registry.stamps import utc_now
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from moorage.storage.driver import Driver

__all__ = ["CollectionSchedule", "keep_reserve"]

_FIRST_RUN_WITHIN_S: Final = 3600.0
"""Nodes that start together do not examine the store together."""
_LOOK_AGAIN_S: Final = 600.0
"""After a pause, a failure, or a run of another node."""
_log: Final = structlog.get_logger("moorage.collection")


class CollectionSchedule:
    """Calls `collect` once per interval, until cancelled.

    `collect` returns the fields of the log line, `outcome` among them, and raises `StorageError`, or
    `CollectionRefused` with the reason why nothing was done.  `reports_only`: its runs change nothing.
    """

    def __init__(
        self,
        driver: Driver,
        collect: Callable[[], Awaitable[Mapping[str, object]]],
        *,
        interval_s: float,
        reports_only: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._driver = driver
        self._collect = collect
        self._interval_s = interval_s
        self._reports_only = reports_only
        self._sleep = sleep
        self._now = now
        self._last_reason = ""

    async def run(self) -> None:
        await self._sleep(random.uniform(0, min(_FIRST_RUN_WITHIN_S, self._interval_s)))  # noqa: S311  no secret
        while True:
            await self._sleep(await self.step())

    async def step(self) -> float:
        """Run if a run is due; return the seconds until the next look."""
        try:
            if (early_s := await self._early_s()) > 0:
                return early_s
            if (pause := await read_pause(self._driver)) is not None:
                self._report_once(f"paused since {pause.at:%Y-%m-%dT%H:%M:%SZ} by {pause.by or 'unknown'}")
                return min(_LOOK_AGAIN_S, self._interval_s)
            began = time.monotonic()
            fields = await self._collect()
        except CollectionRefused as error:
            self._report_once(str(error))
            return min(_LOOK_AGAIN_S, self._interval_s)
        except StorageError as error:
            _log.error("garbage collection stopped early; the next run continues", cause=str(error))
            return min(_LOOK_AGAIN_S, self._interval_s)
        self._last_reason = ""
        seconds = round(time.monotonic() - began, 1)
        if fields["outcome"] != FINISHED:
            _log.warning("garbage collection stopped early; the next run continues", **fields, seconds=seconds)
            return min(_LOOK_AGAIN_S, self._interval_s)
        event = "garbage would be collected" if self._reports_only else "garbage collected"
        _log.info(event, **fields, seconds=seconds)
        return self._interval_s

    async def _early_s(self) -> float:
        """Return the seconds until a run is due, 0 if one is.

        A last run in the future, after a clock has jumped, counts as one of this moment.
        """
        if self._reports_only:
            return 0.0
        ended = [name for name in await list_state(self._driver) if name.kind == ENDED]
        latest = 0.0
        for name in ended:
            stat = await self._driver.find(layout.collection(str(name)))
            if stat is not None:
                age_s = max(0.0, (self._now() - stat.modified).total_seconds())
                latest = max(latest, self._interval_s - age_s)
        return latest

    def _report_once(self, reason: str) -> None:
        """Log why nothing is collected, again only when the reason changes."""
        if reason != self._last_reason:
            _log.warning("garbage is not collected", reason=reason)
        self._last_reason = reason


async def keep_reserve(driver: Driver) -> None:
    """Create the reserve, whose space a run on a full disk uses.  A failure is logged."""
    try:
        await create_reserve(driver)
    except StorageError as error:
        _log.warning("there is no reserve for garbage collection on a full disk", cause=str(error))
