"""Walks over a whole registry: its repositories, its blobs, its objects.

    visit_repositories   a visit for each repository, in the order of the catalog    fsck, copy, rebuild-referrers
    visit_blobs          a visit for each page of blobs, prefix by prefix            copy --all-blobs
    list_objects         every key, parsed; in the order of the store                fsck, migrate check

A visitor is a coroutine function.  That of a repository receives a `RepositoryListing` and calls the methods for
what it needs (`each_layer`, `each_manifest`, ...) in the order in which it needs it; what it does not call is not
listed and costs nothing.  Visitors receive parsed names, digests and tags, never keys.

A walk runs beside a serving registry.  It is no snapshot: an entry may be deleted before its visit, and one that
is pushed behind the walk's position is missed.  A listed name is not more than a name: its link may be torn, or
the directory of a file system left empty by a deletion.

**Position.**  A walk calls `reached` with a position, a short text, when everything up to there has been visited.
It may be stored, and a later walk with `after` continues behind it.  Visits run concurrently, so an interrupted
walk may have visited more than its position states; visits must bear repetition.

**Concurrency** follows the cost of a request (`requests_in_flight`): as many visits as hide the latency of another
host; few on a local disk, where a read is answered on the event loop and many at once would delay the requests of
a process that also serves.

**Memory** is independent of the size of the store: the names of one directory on each level of the position, at
most 65,536 each (10 MiB in all, measured with 200,000 repositories in one directory), and of 16 directories
ahead, 1,000 each; `WINDOW` positions that were begun; for each repository in work (a quarter of the visits) one
page of at most 1,000 digests, about 0.3 KiB each; what the visitors hold.

Above: `fsck/`, `copy/`, `migration/`, `referrers.py`.  Below: `layout.py`, `repositories.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from moorage.concurrency import for_each, one_page
from moorage.errors import DigestInvalid
from moorage.registry import layout
from moorage.registry.repositories import repository_names
from moorage.registry.tags import TagStore, as_tag
from moorage.storage.driver import RequestCost
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from moorage.registry.layout import ParsedKey
    from moorage.storage.driver import Driver, Key, Stat
    from moorage.types import RepoName, Tag

__all__ = [
    "WINDOW",
    "ListedBlob",
    "ListedObject",
    "RepositoryListing",
    "list_digests",
    "list_objects",
    "requests_in_flight",
    "visit_blobs",
    "visit_repositories",
]

_T = TypeVar("_T")

_REMOTE: Final = 64
_LOCAL: Final = 8
_VISITS_PER_REPOSITORY: Final = 4
WINDOW: Final = 10_000
"""Positions that may be begun before an earlier one is finished."""
_HEX: Final = re.compile(r"[a-f0-9]+")
_FIRST_BYTE: Final = re.compile(r"[a-f0-9]{2}")


class ListedBlob(NamedTuple):
    """A blob, with the size and time of its object.  A listing of Swift shows 0 bytes for a blob in segments."""

    digest: Digest
    stat: Stat


class ListedObject(NamedTuple):
    """Any object; `parsed` is None if no registry writes such a key."""

    stat: Stat
    parsed: ParsedKey | None


def requests_in_flight(*drivers: Driver) -> int:
    """Return the number of visits that run at the same time in a walk that uses `drivers`."""
    return _REMOTE if any(driver.request_cost is RequestCost.NETWORK for driver in drivers) else _LOCAL


class RepositoryListing:
    """Lists the content of one repository for its visitor.

    Each method lists one family of entries, awaits `visit` for each and returns when the last visit has ended.  An
    entry that no client could name is left out.  Raises StorageUnavailable, or the first error of a visit, when
    no visit is running any more.  A visit must not call these methods itself.
    """

    def __init__(self, driver: Driver, name: RepoName, limits: _Limits) -> None:
        self.name = name
        self._driver = driver
        self._limits = limits

    async def each_layer(self, visit: Callable[[Digest], Awaitable[object]]) -> None:
        """Visit each blob that the repository links."""
        await self._limits.each(list_digests(self._driver, layout.layers(self.name)), visit)

    async def each_manifest(self, visit: Callable[[Digest], Awaitable[object]]) -> None:
        """Visit each manifest that the repository links."""
        await self._limits.each(list_digests(self._driver, layout.revisions(self.name)), visit)

    async def each_tag(self, visit: Callable[[Tag], Awaitable[object]]) -> None:
        """Visit each tag, in byte order; also one that has a history and no link."""
        await self._limits.each(self._tags(), visit)

    async def each_upload(self, visit: Callable[[str], Awaitable[object]]) -> None:
        """Visit the UUID of each unfinished upload."""
        await self._limits.each(self._driver.children(layout.uploads(self.name)), visit)

    async def each_referrer(self, visit: Callable[[Digest, Digest], Awaitable[object]]) -> None:
        """Visit each referrer link: its subject, then the manifest that refers to it."""

        async def referrers_of(subject: Digest) -> None:
            async with self._limits.listings:
                referrers = list_digests(self._driver, layout.referrers_of(self.name, subject))
                await self._limits.each(referrers, partial(visit, subject))

        subjects = list_digests(self._driver, layout.referrers(self.name))
        await for_each(subjects, referrers_of, limit=self._limits.repositories)

    async def each(self, items: Iterable[_T], visit: Callable[[_T], Awaitable[object]]) -> None:
        """Visit items that the visitor has collected itself, under the same limit as those that are listed."""
        await self._limits.each(one_page(items), visit)

    async def _tags(self) -> AsyncIterator[Sequence[Tag]]:
        async for names in TagStore(self._driver).names(self.name):
            yield [tag for tag in map(as_tag, names) if tag is not None]


async def visit_repositories(
    driver: Driver,
    visit: Callable[[RepositoryListing], Awaitable[object]],
    *,
    names: Iterable[RepoName] | None = None,
    with_manifests: bool = False,
    after: str = "",
    reached: Callable[[str], None] | None = None,
    in_flight: int | None = None,
) -> None:
    """Visit every repository after `after` that holds anything, or, `with_manifests`, that the catalog lists.

    `names` are visited instead if the caller has listed them already.  `in_flight` limits the visits of all
    repositories together, by default to `requests_in_flight(driver)`; a quarter as many repositories are in work
    at the same time.  Raises StorageUnavailable, or the first error of a visit; the last position holds then.
    """
    limits = _Limits(in_flight or requests_in_flight(driver))
    progress = _Progress(reached)

    async def begun() -> AsyncIterator[Sequence[RepoName]]:
        listed = repository_names(driver, after=after, with_manifests=with_manifests)
        async for name in listed if names is None else _in_order(names, after):
            await progress.begin(name)
            yield [name]

    async def one(name: RepoName) -> None:
        await visit(RepositoryListing(driver, name, limits))
        progress.finish(name)

    await for_each(begun(), one, limit=limits.repositories)


async def visit_blobs(
    driver: Driver,
    visit: Callable[[Sequence[ListedBlob]], Awaitable[object]],
    *,
    after: str = "",
    reached: Callable[[str], None] | None = None,
    in_flight: int | None = None,
) -> None:
    """Visit every blob, in pages; those of one prefix (`sha256/7f`), which is the position, in one or several.

    Costs one listing for each of at most 256 prefixes of an algorithm, a quarter of `in_flight` at the same time.
    Raises StorageUnavailable, or the first error of a visit; the last position holds then.
    """
    limits = _Limits(in_flight or requests_in_flight(driver))
    progress = _Progress(reached)

    async def begun() -> AsyncIterator[Sequence[str]]:
        async for prefix in _blob_prefixes(driver, after):
            await progress.begin(prefix)
            yield [prefix]

    async def one(prefix: str) -> None:
        async for page in driver.scan(layout.below(layout.BLOBS, prefix)):
            found = [
                ListedBlob(parsed.digest, stat)
                for stat, parsed in map(_parsed, page)
                if parsed is not None and parsed.kind == "blob" and parsed.digest is not None
            ]
            if found:
                await visit(found)
        progress.finish(prefix)

    await for_each(begun(), one, limit=limits.repositories)


async def list_objects(driver: Driver) -> AsyncIterator[Sequence[ListedObject]]:
    """Yield every object of the registry, in pages, in any order.  Raises StorageUnavailable."""
    async for page in driver.scan(layout.ROOT):
        yield [_parsed(stat) for stat in page]


async def list_digests(driver: Driver, prefix: Key, *, after: str = "") -> AsyncGenerator[Sequence[Digest], None]:
    """Yield the digests that a tree of ALG/HEX names, in pages, in order of their texts; only those greater than
    `after`.  Other names in the tree are left out.

    Raises StorageUnavailable.
    """
    async for algorithms in driver.children(prefix):
        for algorithm in algorithms:
            start = after.removeprefix(f"{algorithm}:")
            start = start if start != after and _HEX.fullmatch(start) else ""
            async for names in driver.children(layout.below(prefix, algorithm), after=start):
                found = []
                for encoded in names:
                    with suppress(DigestInvalid):
                        digest = Digest.parse(f"{algorithm}:{encoded}")
                        if str(digest) > after:
                            found.append(digest)
                yield found


class _Limits:
    """The concurrency of one walk.

    A repository in work holds one of `repositories`, a listing below it one of `listings`, a visit one of
    `_visits`; each waits only for those named after it, so they cannot block one another.
    """

    def __init__(self, in_flight: int) -> None:
        self.repositories = max(1, in_flight // _VISITS_PER_REPOSITORY)
        self.listings = asyncio.Semaphore(self.repositories)
        self._in_flight = in_flight
        self._visits = asyncio.Semaphore(in_flight)

    async def each(self, pages: AsyncIterator[Iterable[_T]], visit: Callable[[_T], Awaitable[object]]) -> None:
        async def one(item: _T) -> None:
            async with self._visits:
                await visit(item)

        await for_each(pages, one, limit=self._in_flight)


class _Progress:
    """The position of a walk: the last entry before which none is unfinished."""

    def __init__(self, reached: Callable[[str], None] | None) -> None:
        self._reached = reached
        self._begun: deque[str] = deque()
        self._finished: set[str] = set()
        self._window = asyncio.Semaphore(WINDOW)

    async def begin(self, position: str) -> None:
        await self._window.acquire()
        self._begun.append(position)

    def finish(self, position: str) -> None:
        self._finished.add(position)
        last = ""
        while self._begun and self._begun[0] in self._finished:
            last = self._begun.popleft()
            self._finished.remove(last)
            self._window.release()
        if last and self._reached is not None:
            self._reached(last)


async def _in_order(names: Iterable[RepoName], after: str) -> AsyncIterator[RepoName]:
    for name in sorted(names, key=lambda name: name.split("/")):
        if name.split("/") > after.split("/"):
            yield name


async def _blob_prefixes(driver: Driver, after: str) -> AsyncIterator[str]:
    """Yield `ALG/HH` in order."""
    last, _, first_byte = after.partition("/")
    async for algorithms in driver.children(layout.BLOBS):
        for algorithm in algorithms:
            if algorithm < last:
                continue
            start = first_byte if algorithm == last else ""
            async for names in driver.children(layout.below(layout.BLOBS, algorithm), after=start):
                for name in names:
                    if _FIRST_BYTE.fullmatch(name):
                        yield f"{algorithm}/{name}"


def _parsed(stat: Stat) -> ListedObject:
    return ListedObject(stat, layout.parse_key(stat.key))
