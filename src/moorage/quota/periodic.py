"""Periodic count of usage, on one node of a cluster: a job of the housekeeper.

Counted is what was never counted; everything every `interval_s`; and earlier after a garbage collection, which
removes links without a fact, and when a push was refused by numbers older than ten minutes: the refusal may be
wrong.

Above: `wiring/housekeeping.py`.  Below: `count.py`, `facts.py`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from moorage.quota.blob_table import BlobTable
from moorage.quota.count import count, publish, stored_sizes
from moorage.quota.facts import WANTED, StoredUsage, read_base
from moorage.quota.usage import SETTLED_S
from moorage.registry import layout
from moorage.registry.collection_state import ENDED, list_state
from moorage.storage.driver import KeyMissing, RequestCost, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.registry.lease import Lease
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["PeriodicCount"]

_LOOK_S: Final = 60.0
"""Seconds between two looks whether a count is due: one listing, and a read."""
_log: Final = structlog.get_logger("moorage.quota")


class PeriodicCount:
    """Counts the usage of `patterns` until cancelled.  With `lease` it skips what another node does."""

    def __init__(
        self,
        driver: Driver,
        patterns: Sequence[str],
        *,
        interval_s: float,
        lease: Lease | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._patterns = tuple(patterns)
        self._interval_s = interval_s
        self._lease = lease
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        try:
            while True:
                try:
                    if self._lease is None or await self._lease.acquire():
                        await self.look()
                except StorageError as error:
                    _log.warning("usage of quotas was not counted; it is tried again", cause=str(error))
                await self._sleep(_LOOK_S)
        finally:
            if self._lease is not None:
                with suppress(StorageError):
                    await self._lease.release()

    async def look(self) -> bool:
        """Count if a count is due; return whether it was.  Raises StorageError."""
        stored = await StoredUsage.of(self._driver)
        base = await read_base(self._driver, stored)
        missing = [pattern for pattern in self._patterns if pattern not in base.counted]
        oldest = min((base.counted[each] for each in self._patterns if each not in missing), default=0.0)
        due = (
            bool(missing)
            or self._clock() - oldest >= self._interval_s
            or stored.wanted
            or await self._collected_at() > oldest
        )
        if due:
            await self._count(stored)
        return due

    async def _collected_at(self) -> float:
        """Return the end of the last collection, in seconds since 1970; 0 if there was none."""
        latest = 0.0
        for state in await list_state(self._driver):
            if state.kind == ENDED:
                with suppress(KeyMissing):
                    stat = await self._driver.stat(layout.collection(str(state)))
                    latest = max(latest, stat.modified.timestamp())
        return latest

    async def _count(self, stored: StoredUsage) -> None:
        if stored.wanted:  # before the count: a refusal beside it asks for another one
            await self._driver.delete([layout.usage(WANTED)])
        counted = await count(self._driver, self._patterns, clock=self._clock, sizes=await self._sizes())
        await self._sleep(SETTLED_S)
        await publish(self._driver, counted, self._patterns, clock=self._clock)
        _log.info("usage of quotas counted", repositories=", ".join(self._patterns))

    async def _sizes(self) -> Callable[[RepoName, Digest], Awaitable[int]] | None:
        """Return sizes from a listing where a request for each blob would cost more; None else."""
        if self._driver.request_cost is not RequestCost.NETWORK:
            return None
        table = await BlobTable.load(self._driver)
        sizes, later = table.sizes(), stored_sizes(self._driver)

        async def size_of(name: RepoName, digest: Digest) -> int:
            number = table.number(digest)
            return await later(name, digest) if number is None else sizes[number]

        return size_of
