"""Upload purging: removes uploads and tags that no client finished, by age (`storage.maintenance.uploadpurging`).

Two nodes may do this at once: removing an upload twice is harmless, and one that is being extended was begun too
recently to be old.  A lease lets one node of a cluster do it, so that N nodes do not list a bucket N times.
Uploads without a start time, which CNCF Distribution keeps for ever, are purged by the time of their last write.
Tags: `tags.py`.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from moorage.registry import layout
from moorage.registry.repositories import repository_names
from moorage.registry.stamps import utc_now
from moorage.registry.tags import TagStore
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from moorage.registry.lease import Lease
    from moorage.storage.driver import Driver, Key

__all__ = ["Purger", "purge", "purge_tags"]

_FIRST_RUN_WITHIN_S: Final = 3600.0
"""Nodes that start together do not list the store together."""
_log: Final = structlog.get_logger("moorage.purge")


async def purge(driver: Driver, *, before: datetime, dry_run: bool = False) -> AsyncIterator[Key]:
    """Remove every upload that began before `before`, and the parts of objects in a bucket that were begun before
    it and never completed; yield their keys.  With `dry_run` nothing is removed.

    Temporary files that crashes leave in a directory are left to `moorage storage check`: finding them requires a
    walk of all directories, while a bucket lists them.
    """
    async for home in driver.uploads.abandoned(layout.REPOSITORIES, before):
        if not dry_run:
            await driver.uploads.discard(home)
        yield home
    if not driver.lists_unfinished:
        return
    for key in await driver.uploads.sweep(layout.ROOT, before, dry_run=dry_run):
        yield key


async def purge_tags(driver: Driver, *, before: datetime, dry_run: bool = False) -> AsyncIterator[Key]:
    """Remove what pushes interrupted before `before` left of tags; yield the tags.  `dry_run` removes nothing."""
    tags = TagStore(driver)
    async for name in repository_names(driver):
        async for tag in tags.unfinished(name, before):
            if dry_run or await tags.remove_unfinished(name, tag, before):
                yield tags.key(name, tag)


class Purger:
    """Purges at a random moment of the first hour, then every `interval_s` seconds, until cancelled.

    With `lease` it skips the passes for which another node holds it.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        age_s: float,
        interval_s: float,
        dry_run: bool,
        lease: Lease | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._age = timedelta(seconds=age_s)
        self._interval_s = interval_s
        self._dry_run = dry_run
        self._lease = lease
        self._lease_failed = False
        self._sleep = sleep

    async def run(self) -> None:
        await self._sleep(random.uniform(0, min(_FIRST_RUN_WITHIN_S, self._interval_s)))  # noqa: S311  no secret
        try:
            while True:
                if await self._is_responsible():
                    await self.once()
                    # A pass may take hours: the term is counted from its end.
                    await self._is_responsible()
                await self._sleep(self._interval_s)
        finally:
            await self._release()

    async def once(self) -> int:
        """Run one pass; return the number of uploads and tags removed or, on a dry run, found.

        A failing store ends the pass.
        """
        count = 0
        before = utc_now() - self._age
        done = "found" if self._dry_run else "removed"
        try:
            async for home in purge(self._driver, before=before, dry_run=self._dry_run):
                count += 1
                _log.info(f"old upload {done}", upload=home)
            async for tag in purge_tags(self._driver, before=before, dry_run=self._dry_run):
                count += 1
                _log.info(f"half-written tag {done}", tag=tag)
        except StorageError as error:
            _log.error("purging stopped early", cause=str(error))
        return count

    async def _is_responsible(self) -> bool:
        """Return whether this node is to purge.  It is, too, if the store refuses the lease: twice is harmless."""
        if self._lease is None:
            return True
        try:
            held = await self._lease.acquire()
        except StorageError as error:
            if not self._lease_failed:
                self._lease_failed = True
                _log.warning(
                    "upload purging runs without a lease; other nodes may purge as well", cause=str(error)
                )
            return True
        self._lease_failed = False
        return held

    async def _release(self) -> None:
        """Let another node purge next, at once instead of when the term is over."""
        if self._lease is not None:
            with suppress(StorageError):
                await self._lease.release()
