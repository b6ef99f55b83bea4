"""Uploads and tags that no client finished are removed by age (`storage.maintenance.uploadpurging`).

Every node may run this: removing an upload twice is harmless, and one that is being extended right now was
begun too recently to be old.  Uploads that do not say when they began, which CNCF Distribution keeps for ever, go
by the time of their last write.  Tags: `unfinished_tags.py`.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog

from moorage.registry import layout
from moorage.registry.repositories import repository_names
from moorage.registry.unfinished_tags import remove_unfinished, unfinished_tags
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from moorage.storage.driver import Driver, Key

__all__ = ["Purger", "purge", "purge_tags"]

_FIRST_RUN_WITHIN_S: Final = 3600.0  # nodes started together do not walk the store together
_log: Final = structlog.get_logger("moorage.purge")


async def purge(driver: Driver, *, before: datetime, dry_run: bool = False) -> AsyncIterator[Key]:
    """Remove, or with `dry_run` only name, every upload that began before `before`, and then what a bucket keeps
    of objects that were begun before it and never completed.

    Temporary files that crashes leave in a directory are for `moorage storage check`: to find them costs a walk of
    all directories, where a bucket has a list of them.
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
    """Remove, or with `dry_run` only name, what pushes that died before `before` left of tags."""
    async for name in repository_names(driver):
        async for tag in unfinished_tags(driver, name, before):
            if dry_run or await remove_unfinished(driver, name, tag, before):
                yield layout.tag(name, tag)


class Purger:
    """Purges at a random moment of the first hour, then every `interval_s` seconds, for ever."""

    def __init__(
        self,
        driver: Driver,
        *,
        age_s: float,
        interval_s: float,
        dry_run: bool,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver, self._age, self._interval_s = driver, timedelta(seconds=age_s), interval_s
        self._dry_run, self._sleep = dry_run, sleep

    async def run(self) -> None:
        await self._sleep(random.uniform(0, min(_FIRST_RUN_WITHIN_S, self._interval_s)))  # noqa: S311  no secret
        while True:
            await self.once()
            await self._sleep(self._interval_s)

    async def once(self) -> int:
        """Run one pass; return the number of uploads and tags removed or, on a dry run, found.

        A failing store ends the pass.
        """
        count, before, done = 0, datetime.now(UTC) - self._age, "found" if self._dry_run else "removed"
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
