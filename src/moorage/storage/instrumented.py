"""Instrumented driver: reports the duration and the outcome of every call of a driver.

Wraps any driver, only for metrics or traces.  Actions are named as by CNCF Distribution's metric
`registry_storage_action_seconds`, as far as the operations correspond:

    GetContent  read                     Reader  open, open_file, uploads.read: until it can be read
    PutContent  write, write_ordered,    Writer  create, uploads.append: likewise
                uploads.begin
    Stat        stat, probe, uploads.state      Write, Commit  (Moorage) bytes handed over; made durable
    Delete      delete, remove_unchanged, Move    uploads.publish, adopt; publish, with all that it does
    List        children, each page      Walk    scan, uploads.abandoned, each page
    URLFor      handover

Below: `driver.py`.  Observers: `moorage.metrics.storage`, `moorage.tracing.spans`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Generic, TypeVar

from moorage.storage.driver import ALWAYS, READ_LIMIT_BYTES, Driver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import datetime
    from types import TracebackType

    from moorage.storage.driver import (
        Appender,
        Bulk,
        Content,
        Key,
        LocalFile,
        Note,
        Published,
        Reader,
        SignedUrl,
        Stat,
        Stored,
        Uploads,
        UploadState,
        Version,
        When,
        Write,
        Writer,
    )

    Watch = Callable[[str, str, str], AbstractContextManager[object]]
    """Called with the driver's name, an action and the key; entered before the call, left after, with its error.
    """

__all__ = ["InstrumentedDriver"]

_T = TypeVar("_T")


class InstrumentedDriver:
    """See `driver.Driver`: forwards every call to `inner`."""

    def __init__(self, inner: Driver, watch: Watch) -> None:
        self.name = inner.name
        self.request_cost = inner.request_cost
        self.signs_urls = inner.signs_urls
        self.lists_unfinished = inner.lists_unfinished
        self.removes_exactly = inner.removes_exactly
        self._inner = inner
        self._watch = watch
        self.uploads: Uploads = _Uploads(inner.uploads, inner.name, watch)
        self.bulk: Bulk = _Bulk(inner.bulk, inner.name, watch)

    @property
    def resent(self) -> int:
        return self._inner.resent

    async def read(self, key: Key, *, limit: int = READ_LIMIT_BYTES) -> Content:
        with self._watch(self.name, "GetContent", key):
            return await self._inner.read(key, limit=limit)

    async def write(self, key: Key, data: bytes, when: When = ALWAYS) -> Version:
        with self._watch(self.name, "PutContent", key):
            return await self._inner.write(key, data, when)

    async def write_ordered(self, groups: Sequence[Sequence[Write]]) -> Sequence[Version]:
        with self._watch(self.name, "PutContent", groups[-1][-1].key if groups and groups[-1] else ""):
            return await self._inner.write_ordered(groups)

    async def publish(self, home: Key, state: UploadState, to: Key, link: Write) -> Published:
        with self._watch(self.name, "Move", to):
            return await self._inner.publish(home, state, to, link)

    async def stat(self, key: Key) -> Stat:
        with self._watch(self.name, "Stat", key):
            return await self._inner.stat(key)

    find = Driver.find

    async def delete(self, keys: Collection[Key]) -> None:
        with self._watch(self.name, "Delete", next(iter(keys), "")):
            await self._inner.delete(keys)

    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        with self._watch(self.name, "Delete", objects[0].key if objects else ""):
            return await self._inner.remove_unchanged(objects)

    async def clear(self, prefix: Key) -> None:
        with self._watch(self.name, "Delete", prefix):
            await self._inner.clear(prefix)

    async def prune(self, prefix: Key, before: datetime) -> None:
        with self._watch(self.name, "Delete", prefix):
            await self._inner.prune(prefix, before)

    def open(self, key: Key, *, start: int = 0, stop: int | None = None) -> AbstractAsyncContextManager[Reader]:
        opening = self._inner.open(key, start=start, stop=stop)
        return _TimedEntry(opening, self._watch(self.name, "Reader", key), _unchanged)

    async def open_file(self, key: Key) -> LocalFile | None:
        with self._watch(self.name, "Reader", key):
            return await self._inner.open_file(key)

    async def handover(self, key: Key, *, method: str, expires_s: int) -> SignedUrl | None:
        with self._watch(self.name, "URLFor", key):
            return await self._inner.handover(key, method=method, expires_s=expires_s)

    def create(self, key: Key) -> AbstractAsyncContextManager[Writer]:
        def timed(writer: Writer) -> Writer:
            return _Writer(writer, self.name, key, self._watch)

        return _TimedEntry(self._inner.create(key), self._watch(self.name, "Writer", key), timed)

    async def adopt(self, key: Key, path: str) -> Stored:
        with self._watch(self.name, "Move", key):
            return await self._inner.adopt(key, path)

    def children(self, prefix: Key, *, after: str = "", limit: int | None = None) -> AsyncIterator[Sequence[str]]:
        return self._pages(self._inner.children(prefix, after=after, limit=limit), "List", prefix)

    def scan(self, prefix: Key) -> AsyncIterator[Sequence[Stat]]:
        return self._pages(self._inner.scan(prefix), "Walk", prefix)

    def _pages(self, pages: AsyncIterator[_T], action: str, prefix: Key) -> AsyncIterator[_T]:
        return _timed_pages(pages, lambda: self._watch(self.name, action, prefix))

    async def probe(self) -> None:
        with self._watch(self.name, "Stat", ""):
            await self._inner.probe()

    async def close(self) -> None:
        await self._inner.close()


class _Bulk:
    """See `driver.Bulk`; each call is one action, named after its first key."""

    def __init__(self, inner: Bulk, name: str, watch: Watch) -> None:
        self._inner = inner
        self._name = name
        self._watch = watch

    async def fingerprints(self, prefixes: Sequence[Key]) -> Sequence[str | None]:
        with self._watch(self._name, "Stat", next(iter(prefixes), "")):
            return await self._inner.fingerprints(prefixes)

    async def names(self, prefixes: Sequence[Key]) -> Sequence[Sequence[str]]:
        with self._watch(self._name, "List", next(iter(prefixes), "")):
            return await self._inner.names(prefixes)

    async def read(self, keys: Sequence[Key], *, limit: int) -> Sequence[bytes | None]:
        with self._watch(self._name, "GetContent", next(iter(keys), "")):
            return await self._inner.read(keys, limit=limit)

    async def find(self, keys: Sequence[Key]) -> Sequence[Stat | None]:
        with self._watch(self._name, "Stat", next(iter(keys), "")):
            return await self._inner.find(keys)


class _Uploads:
    """See `driver.Uploads`."""

    def __init__(self, inner: Uploads, name: str, watch: Watch) -> None:
        self._inner = inner
        self._name = name
        self._watch = watch

    async def begin(self, home: Key) -> UploadState:
        with self._watch(self._name, "PutContent", home):
            return await self._inner.begin(home)

    async def state(self, home: Key) -> UploadState:
        with self._watch(self._name, "Stat", home):
            return await self._inner.state(home)

    def append(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Appender]:
        def timed(appender: Appender) -> Appender:
            return _Appender(appender, self._name, home, self._watch)

        return _TimedEntry(self._inner.append(home, state), self._watch(self._name, "Writer", home), timed)

    def read(self, home: Key, state: UploadState) -> AbstractAsyncContextManager[Reader]:
        opening = self._inner.read(home, state)
        return _TimedEntry(opening, self._watch(self._name, "Reader", home), _unchanged)

    async def publish(self, home: Key, state: UploadState, to: Key) -> Stored:
        with self._watch(self._name, "Move", to):
            return await self._inner.publish(home, state, to)

    async def discard(self, home: Key) -> None:
        with self._watch(self._name, "Delete", home):
            await self._inner.discard(home)

    def abandoned(self, under: Key, before: datetime) -> AsyncIterator[Key]:
        return _timed_pages(self._inner.abandoned(under, before), lambda: self._watch(self._name, "Walk", under))

    async def sweep(self, under: Key, before: datetime, *, dry_run: bool = False) -> Sequence[Key]:
        with self._watch(self._name, "Walk", under):
            return await self._inner.sweep(under, before, dry_run=dry_run)


class _Writer:
    """See `driver.Writer`."""

    def __init__(self, inner: Writer, name: str, key: Key, watch: Watch) -> None:
        self._inner = inner
        self._name = name
        self._key = key
        self._watch = watch

    async def write(self, chunks: Sequence[bytes]) -> None:
        with self._watch(self._name, "Write", self._key):
            await self._inner.write(chunks)

    async def commit(self) -> Stored:
        with self._watch(self._name, "Commit", self._key):
            return await self._inner.commit()


class _Appender:
    """See `driver.Appender`."""

    def __init__(self, inner: Appender, name: str, home: Key, watch: Watch) -> None:
        self._inner = inner
        self._name = name
        self._home = home
        self._watch = watch

    async def write(self, chunks: Sequence[bytes], also: Callable[[Sequence[bytes]], None] | None = None) -> None:
        with self._watch(self._name, "Write", self._home):
            await self._inner.write(chunks, also)

    async def checkpoint(
        self,
        notes: Sequence[Note] = (),
        chunks: Sequence[bytes] = (),
        also: Callable[[Sequence[bytes]], None] | None = None,
    ) -> UploadState:
        with self._watch(self._name, "Commit", self._home):
            return await self._inner.checkpoint(notes, chunks, also)

    async def seal(
        self, chunks: Sequence[bytes] = (), also: Callable[[Sequence[bytes]], None] | None = None
    ) -> UploadState:
        with self._watch(self._name, "Commit", self._home):
            return await self._inner.seal(chunks, also)


class _TimedEntry(Generic[_T]):
    """Context manager whose entry is timed; the body of the `async with` is the caller's time."""

    __slots__ = ("_inner", "_timer", "_wrap")

    def __init__(
        self,
        inner: AbstractAsyncContextManager[_T],
        timer: AbstractContextManager[object],
        wrap: Callable[[_T], _T],
    ) -> None:
        self._inner = inner
        self._timer = timer
        self._wrap = wrap

    async def __aenter__(self) -> _T:
        with self._timer:
            return self._wrap(await self._inner.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


def _unchanged(reader: _T) -> _T:
    return reader


async def _timed_pages(
    pages: AsyncIterator[_T], watch: Callable[[], AbstractContextManager[object]]
) -> AsyncIterator[_T]:
    """Yield the same pages, each timed by itself; the time between them is the caller's."""
    try:
        while True:
            with watch():
                try:
                    page = await anext(pages)
                except StopAsyncIteration:
                    return
            yield page
    finally:
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()
