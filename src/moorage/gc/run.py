"""A collection run: what `moorage garbage-collect` and the housekeeper call.

    lease ─► preconditions ─► running ─► wait for all requests to observe it ─► mark ─► condemn ─► wait
                                                                                         │
    end ◄─ lists of dead runs, when their removals cannot arrive any more ◄─ sweep ◄─────┘

A run that is interrupted or killed leaves `running` and its lists of condemned digests, which requests observe
further: what they rely on is rescued, and each process that is pushed to lists the state once in a second until
the next run has ended.  That one, which has another token, uses the lists: what was condemned long enough ago is
swept without another wait.  It could not without that: a client that was answered meanwhile would lose what it
relies on.  A run that has condemned nothing yet leaves nothing, and so does one that is paused, since a pause has
no bound: the run after it waits once more.  Lists of doomed digests of a run that died stay for a quarantine,
since its removals may still arrive; nothing on them is touched before.

The clock of a run is that of the store: the time of its `running`, and the time that has passed since by a
monotonic clock.  Ages, quarantines and the time since digests were condemned are measured by it.

Below: `preconditions.py`, `mark.py`, `condemnation.py`, `work.py`, `sweep.py`, `markers.py`.  The safety argument:
`gc/__init__.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from moorage.gc.cleaning import remove_empty, remove_events, remove_history, remove_trash, remove_uploads
from moorage.gc.condemnation import QUARANTINE_S, Condemnation
from moorage.gc.errors import CollectionHalted, CollectionRefused, CollectionStopped
from moorage.gc.guard import process_deadline
from moorage.gc.markers import Markers
from moorage.gc.preconditions import (
    check_clock,
    check_foreign_writers,
    check_listings,
    check_nodes,
    check_not_paused,
    check_store,
)
from moorage.gc.report import INCOMPLETE, INTERRUPTED, PAUSED, Report
from moorage.gc.sweep import Sweep, SweepTools
from moorage.gc.work import LOCAL_ROUND, REMOTE_ROUND, Stage
from moorage.registry import layout
from moorage.registry.boot_clock import boot_seconds
from moorage.registry.collection_pause import read_pause
from moorage.registry.collection_state import (
    CONDEMNED,
    DOOMED,
    ENDED,
    PROBE,
    RENEW_S,
    RUNNING,
    StateName,
    new_token,
)
from moorage.registry.lease import Lease
from moorage.registry.nodes import expire
from moorage.registry.sizes import MemorySizes
from moorage.registry.stamps import utc_now
from moorage.shielding import run_to_completion
from moorage.storage.driver import Key, RequestCost, StorageError, StorageExhausted, StorageReadOnly

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager

    from moorage.gc.mark import Marked
    from moorage.gc.options import CollectionOptions, Holds
    from moorage.gc.work import Candidates, Work
    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import Driver

__all__ = ["LEASE", "QUARANTINE_S", "Collection", "MarkSource", "collect"]

LEASE: Final = "garbage-collection"
_TERM_S: Final = 120.0
_ALL_OBSERVED_S: Final = RENEW_S * 1.05 + 0.25
"""Time in which every process lists the state again, with the error of its clock."""
_STEP_S: Final = 5.0
_log: Final = structlog.get_logger("moorage.gc")


class MarkSource(Protocol):
    """Marks the store; may be called several times in a run (`mark.py`)."""

    async def mark(self, wanted: Work | None = None) -> Marked:
        """Return what nothing needs; with `wanted`, at least what of it is still dead, and `stats` of its blobs.

        If `wanted` has blobs, all links that are dead are returned, as they keep bytes; else all of those in its
        repositories.  Raises StorageUnavailable.
        """


def _quiet(phase: str, done: int, total: int) -> None:
    del phase, done, total


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Parts and environment of a run.

    `marker` makes the source of marks for ages relative to a time (`mark.Marker`).  `timeless`: the same without
    times of grace and undo, by which a dry run reports what waits for them.  `owner` names this process in the
    lease.  `foreign_writers`: another registry writes to the store, so nothing may be removed.  `links_s`: time
    for which nodes remember links (`StoredOptions.links_s`).  `cleans`: old uploads, and old records of changes of
    tags, are removed too, the latter not from repositories that `holds` names.  `round_objects` is the limit of a
    round, by default that of the kind of store (`work.py`).  `progress` is called with a phase, and with how much
    of how much of it is done.
    """

    driver: Driver
    options: CollectionOptions
    marker: Callable[[datetime], MarkSource]
    owner: str
    timeless: Callable[[datetime], MarkSource] | None = None
    token: str = field(default_factory=new_token)
    sizes: Sizes = field(default_factory=lambda: MemorySizes(0))
    foreign_writers: bool = False
    links_s: float = 2.0
    round_objects: int | None = None
    cleans: bool = True
    holds: Holds | None = None
    progress: Callable[[str, int, int], None] = _quiet
    clock: Callable[[], float] = boot_seconds
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = utc_now
    guard: Callable[[float], AbstractContextManager[None]] = process_deadline


async def collect(collection: Collection) -> Report:
    """Run one collection, or continue one that was interrupted; return its report.

    Raises CollectionRefused when nothing may be removed, and StorageError when the store fails; the next run
    continues then.  A cancellation is raised when the state of the run is consistent.
    """
    began = collection.clock()
    if collection.options.dry_run or collection.foreign_writers:
        report = await _dry_run(collection)
    else:
        await check_store(collection.driver)
        await check_not_paused(collection.driver)
        async with _leased(collection) as held:
            report = await _Run(collection, held).run()
    report.seconds = collection.clock() - began
    return report


async def _dry_run(collection: Collection) -> Report:
    """Mark only; nothing is written, not even the lease."""
    await check_store(collection.driver)
    report = Report(collection.token, dry_run=True)
    if collection.foreign_writers and not collection.options.dry_run:
        report.reason = (
            "another registry writes to this store (foreignwriters), and would not observe a removal: nothing was "
            "removed"
        )
    marked = await collection.marker(collection.now()).mark()
    report.note_marked(marked)
    if collection.timeless is not None:
        report.note_waiting(marked, await collection.timeless(collection.now()).mark())
    return report


@asynccontextmanager
async def _leased(collection: Collection) -> AsyncIterator[Callable[[], bool]]:
    """Hold the lease, extended in the background; yield a function that returns whether it is still held."""
    lease = Lease(collection.driver, LEASE, collection.owner, term_s=_TERM_S, now=collection.now)
    try:
        if not await lease.acquire():
            raise CollectionRefused(
                f"another node or process collects this store ({layout.lease(LEASE)}); one runs at a time"
            )
    except StorageReadOnly as error:
        raise CollectionRefused(f"the store is read-only; nothing was removed: {error}") from error
    except StorageExhausted:
        _log.warning("the store is full; garbage collection runs without a lease")
    except StorageError as error:
        raise CollectionRefused(f"the store cannot be written to; nothing was removed: {error}") from error
    until = boot_seconds() + _TERM_S
    lost = False

    async def extend() -> None:
        nonlocal until, lost
        while not lost:
            await asyncio.sleep(_TERM_S / 4)
            began = boot_seconds()
            with suppress(StorageError):
                if await lease.acquire():
                    until = began + _TERM_S
                else:
                    lost = True

    extending = asyncio.create_task(extend())
    try:
        yield lambda: not lost and boot_seconds() < until
    finally:
        extending.cancel()
        with suppress(asyncio.CancelledError):
            await extending
        with suppress(StorageError):
            await lease.release()


class _Run:
    """One run that holds the lease.  `held` returns whether it still does."""

    def __init__(self, collection: Collection, held: Callable[[], bool]) -> None:
        self._it = collection
        self._driver = collection.driver
        self._held = held
        self._markers = Markers(collection.driver, collection.token)
        self._report = Report(collection.token)
        self._started = datetime.min.replace(tzinfo=UTC)
        self._started_at = 0.0
        self._condemnation = Condemnation(self._markers, self._now)

    async def run(self) -> Report:
        report = self._report
        try:
            await self._begin()
            await self._collect()
            await self._end()
        except CollectionHalted as error:
            report.outcome, report.reason = PAUSED, str(error)
            # Requests would look for it as long as the pause lasts, and record what they rely on.
            with suppress(CollectionStopped):
                await self._end()
        except CollectionStopped as error:
            report.outcome, report.reason = INTERRUPTED, str(error)
            await self._leave()
        except BaseException:
            with suppress(StorageError):
                await run_to_completion(self._leave())
            raise
        return report

    async def _leave(self) -> None:
        """Remove what no other run needs of one that stops."""
        token = self._it.token
        if not self._condemnation.lists and not self._report.resumed:
            # Nothing was doomed, so no request has to know that there was a run.
            await self._markers.remove([StateName(PROBE, token), StateName(RUNNING, token)])
        elif not await self._markers.is_in_place():
            # Its successor may have looked before these were written, and nothing else would remove them soon.
            await self._markers.remove(sorted(self._condemnation.lists))

    def _now(self) -> datetime:
        """Return the time by the store's clock."""
        return self._started + timedelta(seconds=self._it.clock() - self._started_at)

    # The beginning.

    async def _begin(self) -> None:
        it = self._it
        at = it.clock()
        try:
            started = await self._markers.begin(it.owner)
            await check_listings(self._markers)
        except StorageReadOnly as error:
            raise CollectionRefused(f"the store is read-only; nothing was removed: {error}") from error
        except StorageExhausted as error:
            raise CollectionRefused(
                "the store is full, and there is no reserve for the markers of a collection; make a little room "
                f"(1 MiB), and start it again (nothing was removed): {error}"
            ) from error
        self._started = started.modified
        self._started_at = at
        await check_clock(self._markers, self._driver, started, now=it.now())
        await check_nodes(self._driver, now=self._started)
        await check_foreign_writers(self._driver, now=self._started)
        await self._wait(_ALL_OBSERVED_S, "starting")
        # From here on every request has observed that a collection is in progress.

    async def _in_charge(self) -> None:
        if not self._held():
            raise CollectionStopped("the lease of this run was lost; the next run continues")
        if await read_pause(self._driver) is not None:
            raise CollectionHalted("collections are paused; the next run after --resume removes the rest")

    async def _wait(self, seconds: float, phase: str) -> None:
        """Wait in steps, as long as this run is in charge."""
        it = self._it
        until = it.clock() + seconds
        while (rest := until - it.clock()) > 0:
            it.progress(phase, int(seconds - rest), int(seconds))
            await self._in_charge()
            await it.sleep(min(rest, _STEP_S))
        await self._in_charge()

    # The middle.

    async def _collect(self) -> None:
        it = self._it
        condemnation = self._condemnation
        await condemnation.inherit()
        self._report.resumed = condemnation.is_resumed
        await self._markers.make_reserve()
        if it.cleans:
            self._report.uploads = await remove_uploads(
                self._driver, self._started - timedelta(seconds=it.options.upload_age_s)
            )
        marker = it.marker(self._started)
        marked = await marker.mark()
        self._report.note_marked(marked)
        self._report.trash = await remove_trash(self._driver, marked)
        if not await condemnation.condemn(marked):
            self._report.outcome = INCOMPLETE
            self._report.reason = (
                "the store is full, and its reserve took only a part of the markers; another run removes the rest"
            )
        candidates = condemnation.candidates(marked, it.options.wait_s)
        self._report.quarantined = candidates.entry_count(Stage.BLOCKED)
        sweep = self._sweep(marker)
        await candidates.postpone(sweep.manifests)
        for stage in (Stage.READY, Stage.WAITING):
            await self._remove(sweep, candidates, stage)
        await self._release_quarantine(sweep, candidates)
        self._report.history = await remove_history(self._driver, marked)
        if it.cleans:
            kept = timedelta(seconds=max(it.options.grace_s, it.options.undo_s))
            self._report.history += await remove_events(self._driver, self._started - kept, it.holds)
        if self._driver.request_cost is RequestCost.LOCAL:
            # With what has become empty now.  A bucket has no directories; the next run removes the rest there.
            marked = await marker.mark()
        self._report.removed_repositories = await remove_empty(self._driver, marked, self._started)

    def _sweep(self, marker: MarkSource) -> Sweep:
        it = self._it
        tools = SweepTools(
            driver=it.driver,
            markers=self._markers,
            mark=marker.mark,
            in_charge=self._in_charge,
            clock=it.clock,
            sleep=it.sleep,
            guard=it.guard,
            sizes=it.sizes,
            links_s=it.links_s,
            report=self._report,
            progress=it.progress,
        )
        return Sweep(tools, self._condemnation.lists)

    async def _remove(self, sweep: Sweep, candidates: Candidates, stage: Stage) -> None:
        """Remove what is still dead of a stage, when the last of it was condemned long enough ago."""
        count = candidates.count(stage)
        if not count:
            return
        since = self._condemnation.since(candidates, stage)
        rest = (since + timedelta(seconds=self._it.options.wait_s) - self._now()).total_seconds()
        if rest > 0:
            await self._wait(rest, "waiting")
        limit = LOCAL_ROUND if self._driver.request_cost is RequestCost.LOCAL else REMOTE_ROUND
        await sweep.run(candidates.rounds(stage, self._it.round_objects or limit), count)

    # Removals of dead runs.

    async def _release_quarantine(self, sweep: Sweep, candidates: Candidates) -> None:
        """Wait until no removal of a dead run can arrive, remove its lists, and sweep what is on them."""
        held = {name: self._now() + timedelta(seconds=QUARANTINE_S) for name in sweep.held}
        sweep.held.clear()
        lists = self._condemnation.quarantine | held
        if not lists:
            return
        rest = (max(lists.values()) - self._now()).total_seconds()
        if rest > 0:
            await self._wait(rest, "quarantine")
        for name in sorted(lists):
            for digest in {entry.digest for entry in await self._markers.read_list(name)}:
                # A file that the dead process had renamed is restored.
                directory = PurePosixPath(layout.blob_data(digest)).parent
                await self._driver.prune(Key(str(directory)), self._now())
        await self._markers.remove(sorted(lists))
        self._condemnation.quarantine.clear()
        await self._remove(sweep, candidates, Stage.BLOCKED)
        if sweep.held:
            raise CollectionStopped("the store is slow; removals may still be carried out, and the next run looks")

    # The end.

    async def _end(self) -> None:
        """Remove the state of this run and of those before it.  `ended` comes before `running` goes."""
        markers = self._markers
        token = self._it.token
        listing = await markers.listing()
        others = {name for name in listing if name.token != token}
        doomed = [name for name in listing if name.kind == DOOMED]
        # What has no time is no object, and no list.
        if [name for name in doomed if await markers.modified(name) is not None]:
            raise CollectionStopped(
                "another collector is removing content; the next run removes the rest of this one"
            )
        await self._remove_rescued(alone=not any(name.kind == RUNNING for name in others))
        await markers.remove([name for name in listing if name.kind == CONDEMNED])
        await markers.write_ended()
        # A listing that does not see `ended`, since it began before, is not used any more when the others go.
        # Also if this run removed nothing: a listing without both looks like one from before the first run.
        await self._it.sleep(_ALL_OBSERVED_S)
        tokens = {name.token for name in others}
        late = [name for name in await markers.listing() if name.kind == CONDEMNED and name.token in tokens]
        await markers.remove([*late, *(name for name in others if name.kind in {ENDED, PROBE, RUNNING})])
        await markers.remove([StateName(RUNNING, token)])
        await expire(self._driver, now=self._now())
        await markers.make_reserve()

    async def _remove_rescued(self, *, alone: bool) -> None:
        """Remove what requests have recorded longer ago than the grace time; another run needs the rest."""
        if alone or self._report.resumed:
            await self._markers.remove_rescued(self._now() - timedelta(seconds=self._it.options.grace_s))
