"""Usage as one process knows it: counted in memory, exchanged with the other processes every `FLUSH_S`.

    request ──► ready ──► numbers in memory                   no I/O while the last exchange is recent
                  └── else: an exchange, which all waiting requests share
    exchange      write own facts ──► list ──► read the others' facts, and a newer base
    maintain      an exchange every FLUSH_S, until no request has come for IDLE_S; then the store is left alone

A store that fails changes no answer: requests are decided by the last known numbers, with one line in the log.

Facts pile up until a base includes them.  The process that sees too many of them writes one, without a walk,
under a lease; two that do it at once write two valid bases, of which the newer counts.

Above: `registry.py`.  Below: `ledger.py`, `facts.py`, `count.py`.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog

from moorage.coalescing import SingleFlight
from moorage.quota.count import count, publish
from moorage.quota.facts import (
    UPLOAD,
    WANTED,
    Fact,
    FactId,
    StoredUsage,
    encode_facts,
    new_process,
    read_base,
    read_facts,
)
from moorage.quota.ledger import Ledger
from moorage.registry import layout
from moorage.registry.lease import Lease
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.quota.facts import Thing
    from moorage.quota.limits import Limit
    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = ["FLUSH_S", "SETTLED_S", "Usage"]

FLUSH_S: Final = 2.0
"""Seconds between two exchanges."""
IDLE_S: Final = 60.0
"""Seconds without a request after which the exchanges end."""
_STALE_S: Final = 2 * FLUSH_S
SETTLED_S: Final = 1.5 * FLUSH_S
"""Seconds after which every process has written its facts of before."""
_COUNT_WAIT_S: Final = 10.0
"""Seconds for which the first request of a pattern waits until it is counted."""
_FACTS_AT_ONCE: Final = 5000
_OBJECTS: Final = 200
_THINGS: Final = 20_000
"""Objects with facts, and things that they are about, from which on a base is written."""
_OLD_S: Final = 600.0
"""Seconds after a count, from which a refusal asks for another one."""
_TERM_S: Final = 60.0
_log: Final = structlog.get_logger("moorage.quota")


class Usage:
    """Usage of the repositories that `limits` cover, in the store of `driver`.

    `clock` is the time of day, which orders facts; `monotonic` measures intervals; both in seconds.
    """

    def __init__(
        self,
        driver: Driver,
        limits: Sequence[Limit],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.limits = tuple(limits)
        self._by_pattern = {limit.pattern: limit for limit in limits}
        self._driver = driver
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._process = new_process()
        self._ledger = Ledger(self._by_pattern)
        self._fresh: dict[tuple[Thing, int], Fact] = {}
        self._recorded = 0
        self._doubted_at = 0.0
        self._number = 0
        self._exchanged_at: float | None = None
        self._needed_at = monotonic()
        self._failing = False
        self._exchanges: SingleFlight[str, None] = SingleFlight("exchange of usage")
        self._storing = asyncio.Lock()
        self._maintaining: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()
        self._held: dict[str, tuple[int, int]] = {}

    # Questions, answered from memory.

    def limits_of(self, name: RepoName) -> tuple[Limit, ...]:
        """Return the limits that cover a repository."""
        return tuple(self._by_pattern[pattern] for pattern in self._ledger.patterns_of(name))

    def used(self, limit: Limit) -> tuple[int, int] | None:
        """Return the bytes and tags that are used, with those that requests of this process are about to use; None
        if they were never counted.
        """
        used = self._ledger.used(limit.pattern)
        if used is None:
            return None
        held = self._held.get(limit.pattern, (0, 0))
        return used.bytes + held[0], used.tags + held[1]

    def value(self, thing: Thing) -> int | None:
        """Return the last known value of a thing; None if it is not known."""
        return self._ledger.value(thing)

    def hold(self, name: RepoName, size: int, tags: int = 0) -> None:
        """Count bytes and tags that a request is about to store; negative ones when it has ended."""
        for limit in self.limits_of(name):
            held = self._held.get(limit.pattern, (0, 0))
            self._held[limit.pattern] = (held[0] + size, held[1] + tags)

    def record(self, thing: Thing, before: int, after: int) -> None:
        """Count a change, at once here and soon in the other processes."""
        fact = Fact(thing, before, after, self._clock())
        self._ledger.add(fact)
        self._recorded += 1
        # An upload changes with every batch, and only its first and last size matter.
        key = (thing, 0 if thing.kind == UPLOAD else self._recorded)
        earlier = self._fresh.get(key)
        self._fresh[key] = fact if earlier is None else fact._replace(before=earlier.before)

    def doubt(self, limit: Limit) -> None:
        """Ask for a count after a refusal by old numbers, without waiting for it."""
        now = self._clock()
        counted = self._ledger.base.counted.get(limit.pattern, now)
        if now - max(counted, self._doubted_at) >= _OLD_S:
            self._doubted_at = now
            self.spawn(self._want_count())

    async def _want_count(self) -> None:
        await self._driver.write(layout.usage(WANTED), b"")

    # Exchange with the other processes.

    async def ready(self, name: RepoName) -> None:
        """Return when the usage of all patterns that cover a repository is known, and recent."""
        now = self._needed_at = self._monotonic()
        if self._exchanged_at is None or now - self._exchanged_at > _STALE_S:
            await self._exchanges.run("", self._exchange_or_log)
        if self._maintaining is None or self._maintaining.done():
            self._maintaining = asyncio.create_task(self._maintain(), name="usage of quotas")
        if any(self._ledger.used(limit.pattern) is None for limit in self.limits_of(name)):
            await self._first_count()

    async def exchange(self) -> None:
        """Write own facts, and read those of the others.  Raises StorageError."""
        began = self._monotonic()
        await self._flush()
        await self._read()
        self._exchanged_at = began

    async def _exchange_or_log(self) -> None:
        try:
            await self.exchange()
            self._failing = False
        except StorageError as error:
            self._exchanged_at = self._monotonic()
            if not self._failing:
                self._failing = True
                _log.warning(
                    "usage cannot be exchanged with other processes; quotas are checked by the last known numbers",
                    cause=str(error),
                )

    async def _flush(self) -> None:
        async with self._storing:
            while self._fresh:
                batch = dict(islice(self._fresh.items(), _FACTS_AT_ONCE))
                stored = FactId(self._process, self._number)
                await self._driver.write(stored.key, encode_facts(batch.values()))
                self._number += 1
                for key, written in batch.items():
                    fact = self._fresh.pop(key)
                    if fact != written:  # it has changed again meanwhile
                        self._fresh[key] = fact._replace(before=written.after)
                self._ledger.add_stored(stored, list(batch.values()), own=True)

    async def _read(self) -> None:
        async with self._storing:
            stored = await StoredUsage.of(self._driver)
            if stored.bases and stored.bases[-1] != self._ledger.base.token:
                base = await read_base(self._driver, stored)
                if base.token and base.token != self._ledger.base.token:
                    self._ledger.replace(base, self._fresh.values())
            for each in stored.facts:
                if each.process != self._process and not self._ledger.knows(each):
                    facts = await read_facts(self._driver, each)
                    if facts is not None:
                        self._ledger.add_stored(each, facts)

    async def _maintain(self) -> None:
        while True:
            await self._sleep(FLUSH_S)
            await self._exchanges.run("", self._exchange_or_log)
            await self._fold_if_due()
            if not self._fresh and self._monotonic() - self._needed_at > IDLE_S:
                return

    async def _fold_if_due(self) -> None:
        """Write a base that includes the facts, if there are too many of them."""
        objects, things = self._ledger.size
        if objects < _OBJECTS and things < _THINGS:
            return
        lease = Lease(self._driver, "quota-usage", self._process, term_s=_TERM_S)
        try:
            if await lease.acquire():
                await publish(self._driver, None, self._by_pattern, clock=self._clock)
                await self._read()
                await lease.release()
        except StorageError as error:
            _log.warning("usage of quotas cannot be summed up; it is tried again", cause=str(error))

    # Counting.

    async def _first_count(self) -> None:
        """Begin to count what was never counted; wait a moment for the result."""
        if self._counting is None or self._counting.done():
            missing = [pattern for pattern in self._by_pattern if self._ledger.used(pattern) is None]
            self._counting = asyncio.create_task(self._count(missing), name="first count of quotas")
        await asyncio.wait({self._counting}, timeout=_COUNT_WAIT_S)

    async def _count(self, patterns: Sequence[str]) -> None:
        _log.info("counting the usage of quotas; they are not enforced until it is known", repositories=patterns)
        try:
            counted = await count(self._driver, patterns, clock=self._clock)
            # What the walk has seen must be among the facts that the base includes.
            await self._sleep(SETTLED_S)
            await self._flush()
            await publish(self._driver, counted, patterns, clock=self._clock)
            await self._read()
        except StorageError as error:
            _log.warning("the usage of quotas cannot be counted; it is tried again", cause=str(error))

    def spawn(self, work: Awaitable[None]) -> None:
        """Run work that changes the usage, beside the requests."""

        async def run() -> None:
            try:
                await work
            except StorageError as error:
                _log.warning("usage is not up to date until the next count", cause=str(error))

        task = asyncio.create_task(run(), name="usage of quotas")
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    async def settle(self) -> None:
        """Wait for the work that was spawned."""
        if self._others:
            await asyncio.wait(set(self._others))

    async def close(self) -> None:
        """End the tasks, and write the facts that are left."""
        await self.settle()
        for task in (self._maintaining, self._counting):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._exchanges.close()
        try:
            await self._flush()
        except StorageError as error:
            _log.warning("usage is not up to date until the next count", cause=str(error))
