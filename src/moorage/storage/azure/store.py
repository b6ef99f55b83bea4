"""Azure Blob Storage as an object store; CNCF Distribution 2.8 and 3 give blobs different names.

    found in the container      read from                       written to
    nothing                     docker/...                      docker/...
    docker/...                  docker/...                      docker/...
    /docker/...                 /docker/...                     /docker/...       2.8 may be pointed back at it
    both                        docker/..., then /docker/...    docker/...        after an upgrade to 3

Determined once in each process, by two listings of one name; not with a `rootdirectory`, which 2.8 did not have.

With both, an object in `docker/...` hides the one in `/docker/...`, and deleting removes both, the older one
first.  A version read from the older place begins with `/`: writing over it creates the newer one, so that of two
writers still only one wins.

Above: `storage/object_store/driver.py`, `azure/uploads.py`.  Source: docs/reference/storage-layout.md, section 3.1
and 10.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from moorage.shielding import run_to_completion
from moorage.storage.azure.blocks import WRITING, LargeBlob, drop
from moorage.storage.azure.requests import AzureRequests
from moorage.storage.driver import (
    ABSENT,
    ALWAYS,
    Conflict,
    Content,
    Key,
    KeyMissing,
    Stat,
    StorageError,
    Unchanged,
    Version,
)
from moorage.storage.object_store.helpers import probe, remove_each
from moorage.storage.object_store.interface import NamePage
from moorage.storage.object_store.listing import names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import datetime

    from moorage.storage.azure.connection import AzureConnection
    from moorage.storage.driver import Reader, SignedUrl, When
    from moorage.storage.object_store.interface import LargeWriter

__all__ = ["AzureStore"]

_T = TypeVar("_T")

_MARKER: Final = Key("docker/registry")
_OLDER: Final = "/"
_log: Final = structlog.get_logger("moorage.storage.azure")


class AzureStore:
    """See `interface.ObjectStore`; `primary` receives all writes."""

    name = "azure"
    removes_exactly = True

    def __init__(
        self,
        connection: AzureConnection,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.connection = connection
        self.options = connection.options
        self.chunk = self.options.chunk
        self._sleep = sleep
        self._found: tuple[AzureRequests, ...] = ()
        self._looking = asyncio.Lock()

    @property
    def resent(self) -> int:
        return sum(place.retry.resent for place in self._found)

    async def places(self) -> tuple[AzureRequests, ...]:
        """Return the place to write to, then the other ones to read from."""
        if not self._found:
            async with self._looking:
                if not self._found:
                    self._found = await self._find_places()
        return self._found

    async def primary(self) -> AzureRequests:
        return (await self.places())[0]

    async def _find_places(self) -> tuple[AzureRequests, ...]:
        newer = AzureRequests(self.connection, self.options.prefix, sleep=self._sleep)
        if self.options.prefix:
            return (newer,)
        older = AzureRequests(self.connection, _OLDER, sleep=self._sleep)
        new, old = await asyncio.gather(newer.page(_MARKER, limit=1), older.page(_MARKER, limit=1))
        if not old.names:
            return (newer,)
        if not new.names:
            _log.info("the container is of CNCF Distribution 2.8: names begin with a slash, new ones too")
            return (older,)
        _log.warning(
            "the container holds names with and without a leading slash, of CNCF Distribution 2.8 and 3: both are "
            "read, new ones have none"
        )
        return newer, older

    async def _first(self, request: Callable[[AzureRequests], Awaitable[_T]]) -> _T:
        """Return the result of the first place that has the object.  Raises KeyMissing."""
        *others, last = await self.places()
        for place in others:
            try:
                return await request(place)
            except KeyMissing:
                continue
        return await request(last)

    async def get(self, key: Key, *, limit: int) -> Content:
        primary = await self.primary()

        async def request(place: AzureRequests) -> Content:
            found = await place.get(key, limit=limit)
            return found if place is primary else Content(found.data, Version(_OLDER + found.version))

        return await self._first(request)

    async def head(self, key: Key) -> Stat:
        return await self._first(lambda place: place.head(key))

    @asynccontextmanager
    async def stream(self, key: Key, *, start: int = 0, stop: int | None = None) -> AsyncIterator[Reader]:
        yield await self._first(lambda place: place.reader(key, start, stop))

    async def put(self, key: Key, data: Sequence[bytes], when: When = ALWAYS) -> Version:
        primary, *others = await self.places()
        if when is not ALWAYS and others:
            when = await self._condition(key, others[0], when)
        return await primary.put(key, data, when)

    async def _condition(self, key: Key, older: AzureRequests, when: When) -> When:
        """Return the condition for the newer place that implies the one on both.  Raises Conflict."""
        stale = when.version.removeprefix(_OLDER) if isinstance(when, Unchanged) else ""
        if isinstance(when, Unchanged) and stale == when.version:
            return when
        try:
            found = await older.whole(key)
        except KeyMissing:
            if when is ABSENT:
                return ABSENT
            raise Conflict(f"{key}: it is gone") from None
        if found.version != stale:
            raise Conflict(f"{key}: it is there, or has changed")
        return ABSENT

    async def delete(self, keys: Sequence[Key]) -> None:
        for place in reversed(await self.places()):
            await place.delete(keys)

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        """See `Driver.remove_unchanged`: by ETag.  The older place receives no writes."""
        primary, *others = await self.places()
        changed = set(await remove_each(objects, primary.remove_unchanged))
        gone = [known.key for known in objects if known.key not in changed]
        for place in others:
            await place.delete(gone)
        return sorted(changed)

    async def page(self, prefix: Key, *, after: str = "", token: str = "", limit: int = 1000) -> NamePage:
        """See `interface.Pages`.  Of two places: in order of names, with the last name as the token."""
        places = await self.places()
        if len(places) == 1:
            return await places[0].page(prefix, after=after, token=token, limit=limit)
        found: set[str] = set()
        for place in places:
            async for page in names(place, prefix, after=token or after, limit=limit + 1):
                found.update(page)
        ordered = sorted(found)
        return NamePage(ordered[:limit], ordered[limit - 1] if len(ordered) > limit else "")

    async def walk(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        """See `interface.ObjectStore`.  Merges two walks in order of keys, holding a page of each."""
        walks = [_PlaceWalk(place.walk(prefix)) for place in await self.places()]
        for walk in walks:
            await walk.fill()
        while known := [walk.page[-1].key for walk in walks if walk.page]:
            found: dict[Key, Stat] = {}
            for walk in reversed(walks):
                found |= {stat.key: stat for stat in walk.take(min(known))}
            yield [found[key] for key in sorted(found)]
            for walk in walks:
                await walk.fill()

    @asynccontextmanager
    async def large(self, key: Key) -> AsyncIterator[LargeWriter]:
        writer = LargeBlob(await self.primary(), key)
        try:
            yield writer
        finally:
            await run_to_completion(_left(writer))

    async def sign(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        del method  # a URL for reading is good for GET and HEAD
        primary, *others = await self.places()
        if others:

            async def request(place: AzureRequests) -> AzureRequests:
                await place.whole(key)
                return place

            with suppress(KeyMissing):  # no such blob: the client gets a 404 from the store
                primary = await self._first(request)
        return await primary.sign(key, expires_s=expires_s)

    async def unfinished(self, before: datetime, *, abort: bool) -> Sequence[Key]:
        """Return, or with `abort` remove, large blobs of processes that died."""
        primary = await self.primary()
        old = [stat.key async for page in primary.walk_all(WRITING) for stat in page if stat.modified < before]
        if abort:
            for key in old:
                try:
                    await primary.properties(key)
                except KeyMissing:
                    await drop(primary, key)
                else:
                    await primary.delete([key])
        return old

    async def probe(self) -> None:
        await probe(await self.primary())

    async def close(self) -> None:
        await self.connection.close()


async def _left(writer: LargeBlob) -> None:
    """Remove what a large writer leaves.  A failure is logged: `unfinished` finds the rest."""
    try:
        await writer.leave()
    except StorageError as error:
        _log.warning("blocks were left behind", cause=str(error))


class _PlaceWalk:
    """Walk of one place, with the page that was read and not yet taken, in order of keys."""

    def __init__(self, pages: AsyncIterator[Sequence[Stat]]) -> None:
        self._pages = pages
        self.page: list[Stat] = []

    async def fill(self) -> None:
        while not self.page:
            try:
                self.page = sorted(await anext(self._pages), key=lambda stat: stat.key)
            except StopAsyncIteration:
                return

    def take(self, until: Key) -> list[Stat]:
        taken = [stat for stat in self.page if stat.key <= until]
        self.page = self.page[len(taken) :]
        return taken
