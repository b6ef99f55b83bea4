"""Requests beside a garbage collection: what a push relies on is not removed, or the push is not acknowledged.

A collector announces each step by objects in the store (`collection_state.py`), and a process lists them: at most
once in `RENEW_S` seconds while no run is in progress, and only when a request relies on bytes that were stored
before.  In between, a request costs a comparison of two times.

    begin ──► rely (admits) ──► write the link ──► confirm ──► 201
                 │ doomed: absent                     │ lost: settled, and all of it once more, or refuse
                 └ condemned: rescued

Why no acknowledged push loses bytes.  `confirm` is called when the link is durable.

* No run is in progress, the listing is at most `RENEW_S` old or began after the link was written, and shows the
  runs that `begin` has seen.  Then no run has ended between the two.  A run that begins after that listing waits
  longer than `RENEW_S` before it examines anything, so it finds the link.
* Otherwise `confirm` lists again.  A doomed digest is lost.  One that is not doomed then, and whose bytes and
  links exist after that, is safe: a collector writes its list of doomed digests before it examines the links
  for the last time, so it finds the link, and withdraws the digest.

The clock counts the time that the process or the machine was stopped: a process that was stopped between `begin`
and `confirm` for the whole of a run, or several, finds another run in the store, and looks at bytes and links.

A request for a condemned digest writes `rescued/ALG/HEX`, durably, and then lists again: either the collector
reads the object after it has written its list of doomed digests, or the request sees that list.  This is the one
exception to the rule that a read never writes, while a run is in progress.  Where it cannot be written, since the
store is full, read-only or denies it, the digest counts as absent: no repository needs it, and the collector may
remove it at any moment.  The request looks at bytes and links after that, and at no memory.

A list names a digest, or a digest in one repository: there its link is dead, while another repository may need the
same bytes.  So every question has the name of the repository; a mount asks for both.

Absent is what a client may leave out of its push: to a HEAD by digest, a mount, and the references of a manifest,
which wait (`settled`) before they refuse.  A GET of a blob does not ask, and a GET of a manifest, or a HEAD of a
tag, is answered while link and bytes are there.

Listings.  Collectors replace a list of doomed digests by writing the new one, with a greater number, before they
delete the old one.  Buckets list in order of names, and a small directory is read in one step, so one of the two
is seen; a large directory is listed until two listings agree.

A listing that fails raises StorageUnavailable, for a HEAD as for a push: what cannot be known is not answered.

Above: `blobs.py`, `uploads.py`, `manifests.py`, `push_confirmation.py`, `validation.py`; `copy/`, `fsck/`.  Below:
`collection_state.py`, `blob_store.py`, `links.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.caches import LRUCache
from moorage.coalescing import SingleFlight
from moorage.concurrency import map_bounded
from moorage.errors import Unavailable
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.boot_clock import boot_seconds
from moorage.registry.collection_state import CONDEMNED, DOOMED, ENDED, RENEW_S, RUNNING, list_state
from moorage.registry.digest_list import DigestList, contains
from moorage.registry.links import Links, has_link
from moorage.storage.driver import (
    KeyMissing,
    ObjectTooLarge,
    RequestCost,
    StorageDenied,
    StorageExhausted,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from moorage.registry.collection_state import StateName
    from moorage.storage.driver import Driver, Key
    from moorage.types import Digest, RepoName

__all__ = ["ATTEMPTS", "CollectionGate", "CollectionSnapshot"]

ATTEMPTS: Final = 3
"""Times that a push is tried whose content is lost to a collector each time, before the client gets a 503."""
_RENEW_IN_PROGRESS_S: Final = 1.0
_SETTLED_S: Final = 30.0
_POLL_S: Final = 0.5
_RETRY_S: Final = 10
_LISTINGS: Final = 10
_ONE_STEP: Final = 50
"""Names that a directory returns in one system call, on any file system."""
_LISTS_AT_ONCE: Final = 4
_RESCUED: Final = 20_000
_log: Final = structlog.get_logger("moorage.registry")


@dataclass(frozen=True, slots=True, eq=False)
class CollectionSnapshot:
    """State of garbage collection that a listing has shown, which began at `taken_at`.

    `identity`: the runs in progress, and the last one that ended.
    """

    identity: frozenset[StateName]
    in_progress: bool
    taken_at: float
    condemned: Sequence[DigestList] = ()
    doomed: Sequence[DigestList] = ()

    def is_condemned(self, name: RepoName, digest: Digest) -> bool:
        """Return whether a run is going to remove the digest, or its link in the repository."""
        return contains(self.condemned, name, digest)

    def is_doomed(self, name: RepoName, digest: Digest) -> bool:
        """Return whether a run is removing the digest, or its link in the repository."""
        return contains(self.doomed, name, digest)


def _is_undisturbed(begun: CollectionSnapshot, now: CollectionSnapshot) -> bool:
    return not now.in_progress and not begun.in_progress and now.identity == begun.identity


class CollectionGate:
    """The gate of one process and one driver.  Methods raise StorageError.

    `store` forgets its sizes, and `links` its links, when they may have been removed since they were seen.
    """

    def __init__(
        self,
        driver: Driver,
        store: BlobStore | None = None,
        links: Links | None = None,
        *,
        clock: Callable[[], float] = boot_seconds,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._store = BlobStore(driver) if store is None else store
        self._links = links
        self._clock = clock
        self._sleep = sleep
        self._snapshot: CollectionSnapshot | None = None
        self._expires_at = 0.0
        self._lists: dict[StateName, DigestList] = {}
        self._rescued: LRUCache[tuple[RepoName, Digest], frozenset[StateName]] = LRUCache(_RESCUED)
        self._listings: SingleFlight[int, CollectionSnapshot] = SingleFlight("state of garbage collection")
        self._turn = asyncio.Lock()
        self._begun = 0  # listings

    def recent(self) -> CollectionSnapshot | None:
        """Return the last snapshot, if it is recent enough for a request that begins now."""
        return self._snapshot if self._clock() < self._expires_at else None

    async def begin(self) -> CollectionSnapshot:
        """Return a recent snapshot, with which a request begins: `RENEW_S` old, or a second during a run."""
        return self.recent() or await self._fresh()

    async def admits(self, begun: CollectionSnapshot, name: RepoName, *digests: Digest) -> bool:
        """Return whether the digests count as present in the repository; condemned ones are rescued.

        While a run is in progress, bytes and links that the caller has seen before this call may be gone after it.
        """
        if not begun.in_progress:
            return True
        if any(begun.is_doomed(name, digest) for digest in digests):
            return False
        condemned = self._condemned(begun, name, digests)
        if not condemned:
            return True
        try:
            await self._record(condemned)
        except (StorageExhausted, StorageDenied) as error:
            _log.warning(
                "a request for content that garbage collection removes cannot be recorded; it counts as missing",
                digest=str(condemned[0]),
                cause=str(error),
            )
            return False
        now = await self._recorded(name, condemned)
        return not any(now.is_doomed(name, digest) for digest in digests)

    async def undisturbed(self, begun: CollectionSnapshot) -> bool:
        """Return whether no run can have removed anything since `begun`, nor removes what is linked by now."""
        return _is_undisturbed(begun, self.recent() or await self._fresh())

    async def confirm(
        self,
        begun: CollectionSnapshot,
        name: RepoName,
        digests: Collection[Digest],
        links: Mapping[Key, Digest] | None = None,
    ) -> frozenset[Digest]:
        """Return the digests that are lost.  Called when a new link is durable, and before it is acknowledged.

        `digests` are those of bytes; `links` all links in the repository that the request needs, each with the
        digest in its key.  Without a run since `begun` nothing is lost, and nothing is read.
        """
        recent = self.recent()
        if recent is not None and _is_undisturbed(begun, recent):
            return frozenset()
        now = await self._fresh()
        if _is_undisturbed(begun, now):
            return frozenset()
        links = links or {}
        named = frozenset((*digests, *links.values()))
        condemned = self._condemned(now, name, named)
        if condemned:
            await self._record(condemned)
            now = await self._recorded(name, condemned)
        lost = {digest for digest in named if now.is_doomed(name, digest)}
        # After the listing: the other way round, a run could remove what was seen, and end before the listing.

        async def find_bytes(digest: Digest) -> None:
            if await self._store.stat(digest) is None:
                lost.add(digest)

        async def find_link(key: Key) -> None:
            if not await has_link(self._driver, key):
                lost.add(links[key])

        await map_bounded(digests, find_bytes)
        await map_bounded(links, find_link)
        return frozenset(lost)

    async def settled(self, name: RepoName, digests: Iterable[Digest]) -> None:
        """Wait until none of the digests is being removed: a collector withdraws them, or has removed them.

        The last listing is what the caller's next attempt begins with.  Raises Unavailable after half a minute.
        """
        waiting = tuple(digests)
        until = self._clock() + _SETTLED_S
        now = await self._fresh()
        asked = [digest for digest in waiting if now.is_doomed(name, digest)]
        asked += self._condemned(now, name, waiting)
        if asked:
            await self._record(asked)
            now = await self._recorded(name, asked)
        while doomed := [digest for digest in waiting if now.is_doomed(name, digest)]:
            if self._clock() >= until:
                raise Unavailable(
                    f"garbage collection is removing {doomed[0]}; try again later", retry_after_s=_RETRY_S
                )
            await self._sleep(_POLL_S)
            now = await self._fresh()

    async def close(self) -> None:
        """Cancel a listing whose callers have all been cancelled."""
        await self._listings.close()

    # Condemned digests.

    def _condemned(self, now: CollectionSnapshot, name: RepoName, digests: Iterable[Digest]) -> list[Digest]:
        """Return the digests that are condemned, and neither doomed nor rescued by this process."""
        return [
            digest
            for digest in digests
            if now.is_condemned(name, digest)
            and not now.is_doomed(name, digest)
            and self._rescued.get((name, digest)) != now.identity
        ]

    async def _record(self, digests: Sequence[Digest]) -> None:
        """Record, durably, that a request relies on the digests."""

        async def write(digest: Digest) -> None:
            await self._driver.write(layout.rescued(digest), str(digest).encode())

        await map_bounded(digests, write)

    async def _recorded(self, name: RepoName, digests: Sequence[Digest]) -> CollectionSnapshot:
        """Return a snapshot that is newer than the records; those of digests that are not doomed by then count."""
        now = await self._fresh()
        for digest in digests:
            if not now.is_doomed(name, digest):
                self._rescued.put((name, digest), now.identity)
        return now

    # Snapshots.

    async def _fresh(self) -> CollectionSnapshot:
        """Return a snapshot whose listing begins after this call; all callers that wait for it share it."""
        return await self._listings.run(self._begun + 1, self._next)

    async def _next(self) -> CollectionSnapshot:
        async with self._turn:
            self._begun += 1
            missing: set[StateName] | None = None
            for left in range(_LISTINGS, -1, -1):
                found, gone = await self._take(missing if missing and not left else frozenset())
                if found is not None:
                    break
                missing = gone if missing is None else missing & gone
            else:
                raise StorageUnavailable(f"{layout.COLLECTION}: its lists change faster than they can be read")
            self._replace(found)
            return found

    async def _take(self, missing: Collection[StateName]) -> tuple[CollectionSnapshot | None, set[StateName]]:
        """List the state, and read the lists that are new.  None, with their names, if some are gone by then.

        A list goes when it is replaced, or its run ends.  `missing` were gone in all listings before this one.
        What is listed all the same is no object (a directory, a link to nowhere), and no collector has written it:
        an empty list.
        """
        taken_at = self._clock()
        names = await list_state(self._driver)
        while len(names) > _ONE_STEP and self._driver.request_cost is RequestCost.LOCAL:
            again = await list_state(self._driver)
            if set(again) == set(names):
                break
            names = again
        lists = sorted(name for name in names if name.kind in {CONDEMNED, DOOMED})

        gone: set[StateName] = set()

        async def load(name: StateName) -> DigestList:
            key = layout.collection(str(name))
            try:
                return DigestList((await self._driver.read(key)).data)
            except KeyMissing:
                if name not in missing:
                    gone.add(name)
                return DigestList(b"")
            except ObjectTooLarge as error:
                raise StorageUnavailable(
                    f"{error}: no collection writes such a list; the next one removes it, or remove it by hand"
                ) from error

        new = [name for name in lists if name not in self._lists]
        loaded = dict(zip(new, await map_bounded(new, load, limit=_LISTS_AT_ONCE), strict=True))
        if gone:
            return None, gone
        before, self._lists = self._lists, {name: loaded.get(name) or self._lists[name] for name in lists}
        if any(name.kind == DOOMED and name not in self._lists for name in before):
            self._forget()
        found = CollectionSnapshot(
            identity=frozenset(name for name in names if name.kind in {RUNNING, ENDED}),
            in_progress=bool(lists) or any(name.kind == RUNNING for name in names),
            taken_at=taken_at,
            condemned=[self._lists[name] for name in lists if name.kind == CONDEMNED],
            doomed=[self._lists[name] for name in lists if name.kind == DOOMED],
        )
        return found, gone

    def _replace(self, found: CollectionSnapshot) -> None:
        if self._snapshot is None or self._snapshot.identity != found.identity:
            self._forget()
        self._snapshot = found
        self._expires_at = found.taken_at + (_RENEW_IN_PROGRESS_S if found.in_progress else RENEW_S)

    def _forget(self) -> None:
        self._store.forget_all()
        if self._links is not None:
            self._links.forget_all()
