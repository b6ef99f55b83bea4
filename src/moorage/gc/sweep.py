"""Sweep: dooms candidates, looks at the store once more, and removes those that are still dead.

One round (`work.py`):

    doom       write the lists of doomed digests
    look       mark again; read which digests were rescued; withdraw those that live from the lists
    renew      if that took long: write the lists again, under other numbers; the time of a round begins here
    unlink     revision links, parents before the manifests that they list; then layer links; wait for the leases
               of links on other nodes
    remove     bytes, each object only if it is the one that was marked; before each chunk `rescued` is read again
    undoom     remove each list when its objects are gone

A round of links looks at its repositories only, a round that has bytes at all of them: links are needed in their
own repository, bytes in any (`gc/__init__.py`, 4).

Nothing is removed during the look, so neither deadline nor guard count while a large store is marked.

Before each removal the run checks that it is still the one in charge (`_check`).  `gc/__init__.py` has the reasons
for the order.

Links first, and no link is withdrawn after the first one is removed: a manifest that is rescued then would live
without its layers.  Bytes may be withdrawn until their own removal.

A removal that fails, is cancelled, is sent again, or takes long in a remote store may be carried out later.  Its
list stays: it is quarantined, as those of a dead collector are (`run.py`).

Above: `run.py`.  Below: `work.py`, `markers.py`, `manifest_graph.py`.
"""

from __future__ import annotations

from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import structlog

from moorage.concurrency import map_bounded
from moorage.gc.errors import CollectionReplaced, CollectionStopped
from moorage.gc.manifest_graph import ManifestGraph, topological_levels
from moorage.gc.markers import ListEntry
from moorage.gc.work import Work, entry_of
from moorage.registry import layout
from moorage.registry.collection_state import DOOMED
from moorage.registry.links import LAYER, read_link
from moorage.registry.sizes import NotForgotten
from moorage.shielding import run_to_completion
from moorage.storage.driver import RequestCost, StorageError, StorageExhausted, StorageReadOnly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from moorage.gc.mark import Marked
    from moorage.gc.markers import Markers
    from moorage.gc.report import Report
    from moorage.registry.collection_state import StateName
    from moorage.registry.sizes import Sizes
    from moorage.storage.driver import Driver, Key, Stat
    from moorage.types import Digest, RepoName

__all__ = ["DEADLINE_S", "GUARD_S", "LOOK_S", "Sweep", "SweepTools"]

DEADLINE_S: Final = 600.0
"""Seconds after the lists of a round are written or renewed, in which a removal may begin."""
GUARD_S: Final = 720.0
"""Seconds after which a process that is still removing is ended by the kernel."""
LOOK_S: Final = 60.0
"""Seconds of a look after which the lists are renewed."""
_CHUNK: Final = 1000
_LATE_S: Final = 10.0
"""A removal in a remote store that took longer may have been sent twice."""
_LEASE: Final = 1.05
_LEASE_MORE_S: Final = 0.02
_log: Final = structlog.get_logger("moorage.gc")

_T = TypeVar("_T")


class SweepTools(NamedTuple):
    """Parts of a run that a sweep uses.

    `mark` marks again, for a round.  `in_charge` raises CollectionStopped when the lease is lost or the run is
    paused.  `links_s` is the time for which nodes remember links.
    """

    driver: Driver
    markers: Markers
    mark: Callable[[Work], Awaitable[Marked]]
    in_charge: Callable[[], Awaitable[None]]
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    guard: Callable[[float], AbstractContextManager[None]]
    sizes: Sizes
    links_s: float
    report: Report
    progress: Callable[[str, int, int], None]


class _DeadlinePassed(Exception):
    """The round has taken too long; the rest is doomed again."""


class Sweep:
    """Sweep of one run.  `condemned` are the lists that must exist while it dooms anything."""

    def __init__(self, tools: SweepTools, condemned: set[StateName]) -> None:
        self._tools = tools
        self._condemned = condemned
        self.manifests = ManifestGraph(tools.driver)
        self.kept: set[Digest] = set()
        """Digests that were rescued, with everything that the manifests among them name."""
        self._followed: set[Digest] = set()
        """Manifests in `kept` of which it has everything that they name."""
        self.held: list[StateName] = []
        """Lists of removals that may still be carried out."""

    async def run(self, rounds: Iterable[Work], total: int) -> None:
        """Remove what is still dead of `total` objects, in rounds.  Raises CollectionStopped, StorageError."""
        removed = 0
        for part in rounds:
            work = part
            while len(work):
                done = await _Round(self._tools, self, self._condemned).run(work)
                if not len(done):
                    raise CollectionStopped(
                        "the store is too slow: nothing was removed within the time of a round"
                    )
                left = work.without(done)
                removed += len(work) - len(left)
                work = left
                self._tools.progress("removing", removed, total)

    async def read_rescued(self, work: Work) -> None:
        """Extend `kept` by the digests that requests rely on by now, and by all that manifests among them name.

        The manifests of this round are followed, also those that were rescued during an earlier one.
        """
        tools = self._tools
        found = {tools.markers.rescued_digest(stat) for stat in await tools.markers.rescued()}
        self.kept |= {digest for digest in found if digest is not None}
        if not self.kept:
            return
        for name, digest in work.layers:
            if digest in self.kept and digest.algorithm != "sha256":
                target = await read_link(tools.driver, LAYER(name, digest), digest)
                self.kept |= {target} if target is not None else set()
        manifests = {digest for _, digest in work.revisions} - self._followed
        self.kept = await self.manifests.with_descendants(self.kept, manifests)
        self._followed |= self.kept & manifests

    async def read_rescued_bytes(self) -> None:
        """As `read_rescued`, when no link is left that could be withdrawn."""
        found = map(self._tools.markers.rescued_digest, await self._tools.markers.rescued())
        self.kept |= {digest for digest in found if digest is not None}


class _Round:
    """One round.  `done` is what needs no other round: removed, or withdrawn."""

    def __init__(self, tools: SweepTools, sweep: Sweep, condemned: set[StateName]) -> None:
        self._tools = tools
        self._sweep = sweep
        self._condemned = condemned
        self._deadline = inf
        self._lists: dict[StateName, list[ListEntry]] = {}
        self._issued: set[StateName] = set()
        self._done = Work()
        self._stats: dict[Digest, Stat] = {}
        """Blobs as the look has found them."""

    async def run(self, work: Work) -> Work:
        await self._check(self._condemned)
        with ExitStack() as guard:
            try:
                began = self._tools.clock()
                links, blobs = await self._doom(work)
                work, links, blobs = await self._look(work, links, blobs)
                links, blobs = await self._arm(guard, began, links, blobs)
                await self._unlink(work, links)
                for name in list(blobs):
                    await self._remove(name)
            except _DeadlinePassed:
                pass
            finally:
                await run_to_completion(self._retreat())
        return self._done

    async def _arm(
        self, guard: ExitStack, began: float, links: set[StateName], blobs: set[StateName]
    ) -> tuple[set[StateName], set[StateName]]:
        """Let the time of removals begin: with the lists, or with new ones if writing and looking took long."""
        tools = self._tools
        self._deadline = began + DEADLINE_S
        guard.enter_context(tools.guard(GUARD_S - LOOK_S))
        # Read after the timer is set: so it ends within `GUARD_S` of the lists, also if this process was stopped.
        if tools.clock() - began <= LOOK_S:
            return links, blobs
        guard.close()
        self._deadline = tools.clock() + DEADLINE_S
        guard.enter_context(tools.guard(GUARD_S))
        return await self._renew(links, blobs)

    async def _renew(self, links: set[StateName], blobs: set[StateName]) -> tuple[set[StateName], set[StateName]]:
        """Write the lists once more; return the new names.  The old ones must have been there all the time."""
        old = links | blobs
        renewed = await self._rewritten(links), await self._rewritten(blobs)
        # A successor may have removed them during the look; then what was on them was not doomed meanwhile.
        await self._check(old)
        await self._tools.markers.remove(sorted(old))
        for name in old:
            del self._lists[name]
        return renewed

    async def _rewritten(self, names: set[StateName]) -> set[StateName]:
        entries = [entry for name in sorted(names) for entry in self._lists[name]]
        full = "the store is full, and the lists of this run could not be renewed; make a little room (1 MiB)"
        try:
            written = await self._tools.markers.write_lists(DOOMED, entries, self._lists)
        except StorageReadOnly:
            raise
        except StorageExhausted as error:
            raise CollectionStopped(f"{full}: {error}") from error
        if sum(len(self._lists[name]) for name in written) < len(entries):
            raise CollectionStopped(full)
        return written

    async def _check(self, lists: set[StateName]) -> None:
        """Raise CollectionStopped unless this run is in charge, and the requests see its lists."""
        tools = self._tools
        if tools.clock() >= self._deadline:
            raise _DeadlinePassed
        await tools.in_charge()
        if not await tools.markers.is_in_place(*lists):
            raise CollectionReplaced("another collector has taken over; it continues with what is left")

    async def _doom(self, work: Work) -> tuple[set[StateName], set[StateName]]:
        """Write the lists of links and those of bytes; return their names."""
        markers = self._tools.markers
        # Revisions first: what a full disk leaves in no list must not be a manifest whose layers are removed.
        ordered = [*sorted(work.revisions), *sorted(work.layers)]
        entries = list(dict.fromkeys(entry_of(link, work.blobs) for link in ordered))
        links = await markers.write_lists(DOOMED, entries, self._lists)
        blobs: set[StateName] = set()
        try:
            blobs = await markers.write_lists(DOOMED, [ListEntry(key) for key in sorted(work.blobs)], self._lists)
        except StorageExhausted:
            if not links:
                raise
            # The bytes are doomed in the next round, with the space of the lists of links.
        return links, blobs

    async def _look(
        self, work: Work, links: set[StateName], blobs: set[StateName]
    ) -> tuple[Work, set[StateName], set[StateName]]:
        """Mark again, and withdraw what lives from the lists; return what is left to remove, and its lists."""
        # At once, since requests for what was rescued a moment ago fail while it is doomed.
        await self._sweep.read_rescued(work)
        links, blobs = await self._withdraw(work, self._dead(work, None), links, blobs)
        marked = await self._tools.mark(work)
        self._stats = marked.stats
        await self._sweep.read_rescued(work)
        dead = self._dead(work, marked)
        # A dead link that was not condemned, or is kept, is not removed; so it keeps the bytes that it names, and
        # a manifest all that it names, also by manifests that this round would remove.  In a round of links only,
        # those in its repositories count.
        names = None if work.blobs else work.repositories()
        revisions = {link for link in marked.revisions if names is None or link[0] in names}
        named = await self._sweep.manifests.with_descendants(
            {digest for _, digest in revisions - dead.revisions}, {digest for _, digest in revisions}
        )
        dead.revisions = {link for link in dead.revisions if link[1] not in named}
        dead.layers = {link for link in dead.layers if link[1] not in named}
        if dead.blobs:
            dead.blobs -= named
            dead.blobs -= await self._targets(marked, dead)
        listed = {entry for entries in self._lists.values() for entry in entries}
        self._settle(work.without(dead), work, listed)
        return dead, *await self._withdraw(work, dead, links, blobs)

    def _dead(self, work: Work, marked: Marked | None) -> Work:
        """Return the part of `work` that is doomed, not rescued, and dead by the mark if there is one."""
        kept = self._sweep.kept
        listed = {entry for entries in self._lists.values() for entry in entries}

        def dead(link: tuple[RepoName, Digest]) -> bool:
            return link[1] not in kept and entry_of(link, work.blobs) in listed

        found = Work(
            set(filter(dead, work.revisions)),
            set(filter(dead, work.layers)),
            {digest for digest in work.blobs if digest not in kept and ListEntry(digest) in listed},
        )
        if marked is not None:
            found.revisions &= marked.revisions
            found.layers &= marked.layers
            found.blobs = {digest for digest in found.blobs if digest in marked.blobs and digest in marked.stats}
        return found

    def _settle(self, alive: Work, work: Work, listed: set[ListEntry]) -> None:
        """Note what was withdrawn.  What a full disk has left in no list is doomed in another round."""
        kept = self._sweep.kept

        def settled(entry: ListEntry) -> bool:
            return entry in listed or entry.digest in kept

        before = len(self._done)
        self._done.revisions |= {link for link in alive.revisions if settled(entry_of(link, work.blobs))}
        self._done.layers |= {link for link in alive.layers if settled(entry_of(link, work.blobs))}
        self._done.blobs |= {digest for digest in alive.blobs if settled(ListEntry(digest))}
        self._tools.report.kept += len(self._done) - before

    async def _withdraw(
        self, work: Work, dead: Work, links: set[StateName], blobs: set[StateName]
    ) -> tuple[set[StateName], set[StateName]]:
        """Reduce the lists to the entries of `dead`; return the names of the lists that are left."""
        entries = {entry_of(link, work.blobs) for link in dead.revisions | dead.layers}
        return (
            await self._shrink(links, entries),
            await self._shrink(blobs, set(map(ListEntry, dead.blobs))),
        )

    async def _targets(self, marked: Marked, dead: Work) -> set[Digest]:
        """Return the digests among dead bytes that links which are dead, too, and are not removed name."""
        found: set[Digest] = set()
        others: list[tuple[RepoName, Digest]] = []
        for links, removed in ((marked.revisions, dead.revisions), (marked.layers, dead.layers)):
            for link in links:
                if link in removed:
                    continue
                if link[1] in dead.blobs:
                    found.add(link[1])
                if link[1].algorithm != "sha256":
                    others.append(link)
        targets = await map_bounded(
            others, lambda link: read_link(self._tools.driver, LAYER(link[0], link[1]), link[1])
        )
        return found | {target for target in targets if target is not None}

    async def _shrink(self, names: set[StateName], keep: set[ListEntry]) -> set[StateName]:
        """Replace the lists by ones with the entries of `keep` only; return the names of those that are left."""
        left: set[StateName] = set()
        for name in sorted(names):
            rest = [entry for entry in self._lists[name] if entry in keep]
            if len(rest) == len(self._lists[name]):
                left.add(name)
                continue
            left |= await self._tools.markers.shrink(name, rest, self._lists)
        return left

    # Links.

    async def _unlink(self, work: Work, lists: set[StateName]) -> None:
        tools = self._tools
        if work.revisions or work.layers:
            await self._check(set(self._lists))
        edges = await self._sweep.manifests.edges({digest for _, digest in work.revisions})
        for level in topological_levels(work.revisions, edges):
            for part in _chunks(level):
                keys = [layout.revision_link(name, digest) for name, digest in part]
                keys += [
                    layout.referrer_link(name, subject, digest)
                    for name, digest in part
                    if digest in edges and (subject := edges[digest].subject) is not None
                ]
                await self._delete_links(part, keys, lists)
                self._done.revisions.update(part)
                tools.report.manifests += len(part)
        for part in _chunks(sorted(work.layers)):
            await self._delete_links(part, [layout.layer_link(name, digest) for name, digest in part], lists)
            self._done.layers.update(part)
            tools.report.layers += len(part)
        if (work.revisions or work.layers) and tools.links_s and self._remote:
            await tools.sleep(tools.links_s * _LEASE + _LEASE_MORE_S)
        await self._undoom(lists)

    async def _delete_links(
        self, links: Sequence[tuple[RepoName, Digest]], keys: list[Key], lists: set[StateName]
    ) -> None:
        tools = self._tools
        await self._check(set(self._lists))
        await self._issue(lists, tools.driver.delete(keys))
        by_name: dict[RepoName, list[Digest]] = {}
        for name, digest in links:
            by_name.setdefault(name, []).append(digest)
        for name, digests in by_name.items():
            await tools.sizes.unlinked(name, digests)

    async def _issue(self, lists: set[StateName], removal: Awaitable[_T]) -> _T:
        """Await a removal; its lists stay if it may still be carried out after this."""
        tools = self._tools
        before = set(self._issued)
        self._issued |= lists
        began, resent = tools.clock(), tools.driver.resent
        result = await removal
        once = tools.clock() - began <= _LATE_S and tools.driver.resent == resent
        if not self._remote or once:
            self._issued = before
        return result

    @property
    def _remote(self) -> bool:
        return self._tools.driver.request_cost is RequestCost.NETWORK

    # Bytes.

    async def _remove(self, name: StateName) -> None:
        """Remove the bytes of one list, and the list."""
        sweep = self._sweep
        for part in _chunks([entry.digest for entry in self._lists[name]]):
            await self._check({name})
            await sweep.read_rescued_bytes()
            kept = {digest for digest in part if digest in sweep.kept}
            if kept:
                rest = {entry for entry in self._lists[name] if entry.digest not in kept}
                self._tools.report.kept += len(kept)
                self._done.blobs |= kept
                left = await self._shrink({name}, rest)
                if len(left) != 1:
                    # Nothing is left; or, on a full disk, several lists or fewer entries: in another round.
                    return
                [name] = left
            await self._remove_chunk(name, [digest for digest in part if digest not in kept])
        await self._undoom({name})

    async def _remove_chunk(self, name: StateName, digests: Sequence[Digest]) -> None:
        tools = self._tools
        if not digests:
            return
        try:
            await tools.sizes.collecting(digests)
        except NotForgotten as error:
            raise CollectionStopped(
                f"the cache of sizes cannot be reached, so no bytes are removed: {error}"
            ) from error
        stats = [self._stats[digest] for digest in digests]
        # Marks of torn blobs first: one without bytes would be found by no later run.
        await self._issue({name}, tools.driver.delete([layout.torn_mark(digest) for digest in digests]))
        changed = set(await self._issue({name}, tools.driver.remove_unchanged(stats)))
        gone = [digest for digest in digests if layout.blob_data(digest) not in changed]
        for digest in gone:
            tools.report.freed.add(self._stats[digest].size)
        tools.report.kept += len(changed)
        self._done.blobs.update(digests)

    # The end of a round.

    async def _undoom(self, names: set[StateName]) -> None:
        """Remove lists whose objects are gone, except those of removals that may still be carried out."""
        free = {name for name in names if name in self._lists} - self._issued
        if free:
            await self._tools.markers.remove(sorted(free))
        for name in free:
            del self._lists[name]

    async def _retreat(self) -> None:
        """Remove the lists that are left, of content that the round did not come to."""
        try:
            await self._undoom(set(self._lists))
        except StorageError as error:
            _log.warning("lists of doomed digests are left; the next run removes them", cause=str(error))
        self._sweep.held += sorted(self._lists)


def _chunks(items: Sequence[_T]) -> list[Sequence[_T]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
