"""Fills of one process: which blobs are on their way, and who downloads each of them.

    request ──► open ──┬─ a fill of this process           join it
                       ├─ the part is free                 download it, in a task of its own
                       └─ another process has its lock     follow the file; take over if that process ends

A fill is a task that no request owns: it continues when a client disconnects, until no request has followed it for
`unread_s`.  What it has by then stays in the spool for the next request.

A repository may follow a blob only if its upstream registry has it there: for another repository than that of the
download, this is asked first.  When all bytes are verified the part is moved into the store, and every repository
that has followed it gets its link.

Above: `blobs.py`.  Below: `download.py`, `fill.py`, `spool.py`, `registry/mirrored.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import BlobUnknown, RegistryError, StorageFull, UpstreamFailed
from moorage.proxy.counts import MirrorCounts
from moorage.proxy.download import Download
from moorage.proxy.fill import Fill
from moorage.proxy.spool import PartInfo, SpoolPart, SpoolUnusable
from moorage.proxy.upstream_errors import as_refusal
from moorage.upstream.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.proxy.spool import Spool
    from moorage.proxy.upstreams import Place
    from moorage.registry.mirrored import MirroredContent
    from moorage.types import Digest

__all__ = ["Fills"]

_POLL_S: Final = 0.005
_STILL_POLLS: Final = 20
"""Polls without a change after which a follower tries the lock of the part."""
_ROUNDS: Final = 5
_log: Final = structlog.get_logger("moorage.proxy")


class Fills:
    """See the module docstring.  `poll_s`: seconds between two looks at the file of another process."""

    def __init__(
        self,
        spool: Spool,
        content: MirroredContent,
        *,
        unread_s: float = 300.0,
        counts: MirrorCounts | None = None,
        poll_s: float = _POLL_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._spool = spool
        self._content = content
        self._unread_s = unread_s
        self._counts = MirrorCounts() if counts is None else counts
        self._poll_s = poll_s
        self._sleep = sleep
        self._fills: dict[Digest, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of transfers that this process takes part in."""
        return len(self._fills)

    async def open(self, place: Place, digest: Digest) -> Fill:
        """Return the fill of a blob, whose size is known by then; begin it if there is none.

        `stored` of the result: the blob became one of the repository meanwhile, and there is nothing to follow.
        Raises SpoolUnusable, and RegistryError for what the upstream registry answers.
        """
        for _ in range(_ROUNDS):
            fill = self._fills.get(digest)
            if fill is None:
                fill = self._fills[digest] = Fill(digest, place.local)
                self._spawn(self._run(fill, place), f"fill {digest}")
            elif place.local not in fill.names:
                await _require(place, digest)
                fill.names.add(place.local)
            fill.reader_entered()  # a request that waits for the upstream is not one that has left
            try:
                await fill.sized()
            except RegistryError:
                if place.local == fill.origin:
                    raise
                continue  # the error is that of another repository, perhaps of another upstream registry
            finally:
                fill.reader_left()
            if fill.file is not None or place.local in fill.linked:
                return fill
            # It ended while this repository was being asked for: the bytes are in the store by now.
            if await self._content.link_blob(place.local, digest) is not None:
                fill.linked.add(place.local)
                return fill
        raise UpstreamFailed(f"{digest} vanishes whenever it is stored; see the log of the registry")

    async def fetch(self, place: Place, digest: Digest) -> None:
        """Begin the transfer of a blob that the repository does not have; nothing waits for its end."""
        if not await self._content.has_link(place.local, digest):
            await self.open(place, digest)

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, fill: Fill, place: Place) -> None:
        """Transfer one blob, until nothing has read it for a while."""
        transfer = asyncio.create_task(self._transfer(fill, place), name=f"transfer {fill.digest}")
        watch = asyncio.create_task(fill.unread(self._unread_s), name=f"unread {fill.digest}")
        try:
            await asyncio.wait((transfer, watch), return_when=asyncio.FIRST_COMPLETED)
            if not transfer.done():
                _log.info("a download without readers ends; its bytes stay in the spool", digest=str(fill.digest))
        finally:
            for task in (transfer, watch):
                task.cancel()
            await asyncio.wait((transfer, watch))

    async def _transfer(self, fill: Fill, place: Place) -> None:
        """Transfer one blob, and end the fill with its result or error: at once, for all who look at it."""
        part: SpoolPart | None = None
        error: BaseException | None = None
        try:
            part = self._usable_part(fill)
            if part is None:
                part = await self._follow(fill, place)
            if part is not None:
                await self._lead(fill, part, place)
        except asyncio.CancelledError:
            raise
        except Exception as caught:  # noqa: BLE001  every request that waits gets it, and the log
            error = caught
        finally:
            self._fills.pop(fill.digest, None)
            fill.fail(_refusal(fill, place, error))
            fill.file = None
            if part is not None:
                part.close()

    def _usable_part(self, fill: Fill) -> SpoolPart | None:
        """Open and lock the part; on the event loop, since a local file takes less time than a thread (30 us)."""
        try:
            return self._spool.begin(fill.digest)
        except OSError as error:
            raise SpoolUnusable(f"{self._spool.path(fill.digest)}: {error.strerror or error}") from error

    async def _lead(self, fill: Fill, part: SpoolPart, place: Place) -> None:
        """Download into the locked part, and store what it became."""
        # Readers that follow already need the rest of the file, also if the store has the blob by now.
        if fill.size is None and await self._linked(fill, place):
            # Another process has adopted the part before this one locked a new, empty one.
            await asyncio.to_thread(self._spool.remove, fill.digest)
            return
        try:
            if not await self._continue_complete(fill, part, place):
                await Download(self._spool, part, fill, place, counts=self._counts, sleep=self._sleep).run()
        except OSError as error:
            await asyncio.to_thread(self._spool.remove, fill.digest)
            raise SpoolUnusable(f"{part.path}: {error.strerror or error}") from error
        assert fill.size is not None
        try:
            first = place.local
            await self._content.store_blob(first, fill.digest, str(part.path), fill.size)
            fill.linked.add(first)
            await self._link(fill)
        except RegistryError as error:
            # The clients have all bytes; the next request finds the part, or downloads again.
            _log.error(
                "a blob from an upstream registry could not be stored", digest=str(fill.digest), cause=str(error)
            )
            return
        fill.stored = True
        await asyncio.to_thread(self._spool.remove if part.is_current() else self._spool.remove_info, fill.digest)

    async def _continue_complete(self, fill: Fill, part: SpoolPart, place: Place) -> bool:
        """Take a verified part that could not be stored before; return whether it is one.

        It is not downloaded again, which would shorten the file of those that still read it.
        """
        info = await asyncio.to_thread(self._spool.info, fill.digest)
        if info is None or part.size != info.size:
            return False
        if place.local not in info.names:
            await _require(place, fill.digest)
        fill.names |= info.names
        fill.begin(part.file, info.size)
        fill.advance(info.size)
        return True

    async def _linked(self, fill: Fill, place: Place) -> bool:
        """Link the blob if the store has it, and garbage collection is not removing it; return whether it did."""
        if not await self._content.holds(fill.digest):
            return False
        await _require(place, fill.digest)
        return await self._link(fill)

    async def _link(self, fill: Fill) -> bool:
        """Link the stored blob in all repositories of the fill; return False if it is not there any more."""
        while missing := fill.names - fill.linked:
            for name in missing:
                if await self._content.link_blob(name, fill.digest) is None:
                    return False
                fill.linked.add(name)
        fill.stored = True
        return True

    async def _follow(self, fill: Fill, place: Place) -> SpoolPart | None:
        """Follow the part of another process; return it, locked, if that process has ended before.

        None: the blob is complete, or it is in the store.
        """
        info: PartInfo | None = None
        part: SpoolPart | None = None
        still = 0
        try:
            while True:
                if part is None:
                    part = self._spool.find(fill.digest)
                    if part is None:  # adopted, or removed
                        if await self._linked(fill, place):
                            return None
                        begun = self._usable_part(fill)
                        if begun is not None:
                            return begun
                        continue  # yet another process has begun it
                if info is None and (info := self._spool.info(fill.digest)) is not None:
                    if place.local not in info.names:
                        await _require(place, fill.digest)
                    fill.begin(part.file, info.size)
                before = fill.available
                if info is not None:
                    fill.advance(min(part.size, info.size))
                if fill.complete:
                    await self._followed(fill)
                    return None
                still = 0 if fill.available > before else still + 1
                if still >= _STILL_POLLS:
                    still = 0
                    if part.lock():
                        found, part = part, None
                        return found
                    if not part.is_current():
                        if info is not None:
                            raise UpstreamFailed(f"the transfer of {fill.digest} by another process failed")
                        part.close()
                        part = None
                        continue
                await self._sleep(self._poll_s)
        finally:
            if part is not None:
                part.close()

    async def _followed(self, fill: Fill) -> None:
        """Link a blob that another process stores, once it is there."""
        for _ in range(200):
            if await self._content.holds(fill.digest):
                await self._link(fill)
                return
            await self._sleep(0.05)

    async def close(self) -> None:
        """End all transfers; what they have stays in the spool."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _require(place: Place, digest: Digest) -> None:
    """Check that the repository has the blob at its upstream registry.  Raises RegistryError."""
    try:
        await place.stat_blob(digest)
    except UpstreamError as error:
        raise as_refusal(error, BlobUnknown(str(digest))) from error


def _refusal(fill: Fill, place: Place, error: BaseException | None) -> RegistryError | SpoolUnusable:
    """Return the error of readers that have not got all bytes."""
    if isinstance(error, RegistryError):
        return error
    if isinstance(error, UpstreamError):
        _log.warning(
            "a download from an upstream registry failed",
            upstream=place.host,
            digest=str(fill.digest),
            cause=str(error),
        )
        return as_refusal(error, BlobUnknown(str(fill.digest)))
    if isinstance(error, SpoolUnusable):
        _log.error(
            "the spool of the mirror cannot be written; blobs are passed on without being stored", cause=str(error)
        )
        return StorageFull(str(fill.digest)) if fill.size is not None else error
    if error is not None:
        _log.error("the transfer of a blob failed", digest=str(fill.digest), exc_info=error)
    return UpstreamFailed(f"the transfer of {fill.digest} was stopped; request it again")
