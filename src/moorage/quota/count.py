"""Counts usage by walking over repositories, and publishes the result as a base (`facts.py`).

A walk runs beside pushes and deletions, so it has seen some of what changed meanwhile and missed the rest.  It
keeps 8 bytes for each thing that it has seen.  `publish` reads the facts when the walk has ended, and compares:
the last fact about a thing decides whether it counts, and the walk whether it was counted already.  Facts older
than the walk are not compared: links may have been removed without a fact since, by a collector or another
registry.

Above: `usage.py`, `wiring/housekeeping.py`.  Below: `registry/walk.py`, `facts.py`, `ledger.py`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.concurrency import map_bounded
from moorage.quota.facts import (
    BLOB,
    TAG,
    UPLOAD,
    Base,
    StoredUsage,
    Thing,
    UsedAmount,
    new_token,
    read_base,
    read_facts,
)
from moorage.quota.ledger import Ledger
from moorage.quota.limits import covers
from moorage.registry import layout
from moorage.registry.blob_store import BlobStore
from moorage.registry.links import LAYER, REVISION, Links
from moorage.registry.repositories import repository_names
from moorage.registry.tags import TagStore, as_tag
from moorage.registry.walk import list_digests, requests_in_flight, visit_repositories
from moorage.storage.driver import UploadMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from moorage.registry.walk import RepositoryListing
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

__all__ = ["Counted", "count", "linked_digests", "living_tags", "publish", "stored_sizes"]

_OVERLAP_S: Final = 60.0
"""Clocks of nodes differ by less: facts from this long before a walk are compared with what it has seen."""
_READ_S: Final = 60.0
"""Seconds after which every process has read a base."""
_FORGOTTEN_S: Final = 30 * 86400.0
"""Seconds after which a pattern that no process counts any more is dropped."""
_SIZES: Final = 50_000


@dataclass(slots=True)
class Counted:
    """The result of a walk that began at `started`: usage of each pattern, and everything that was seen."""

    started: float
    amounts: dict[str, UsedAmount]
    uploads: dict[Thing, int] = field(default_factory=dict)
    seen: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, thing: Thing, value: int) -> None:
        if thing.kind == UPLOAD:
            self.uploads[thing] = value
        else:
            self.seen.append(_hash(thing))
        for pattern, amount in self.amounts.items():
            if covers(pattern, thing.name):
                self.amounts[pattern] = amount.plus(thing, value)

    def finish(self) -> Counted:
        self.seen = array("Q", sorted(self.seen))
        return self

    def includes(self, thing: Thing, value: int) -> int:
        """Return the value with which a thing was counted; `value` is that of a thing of its kind."""
        if thing.kind == UPLOAD:
            return self.uploads.get(thing, 0)
        wanted = _hash(thing)
        index = bisect_left(self.seen, wanted)
        return value if index < len(self.seen) and self.seen[index] == wanted else 0


def _hash(thing: Thing) -> int:
    return int.from_bytes(blake2b("\n".join(thing).encode(), digest_size=8).digest())


async def count(
    driver: Driver,
    patterns: Iterable[str],
    *,
    clock: Callable[[], float],
    sizes: Callable[[RepoName, Digest], Awaitable[int]] | None = None,
    reached: Callable[[], None] | None = None,
) -> Counted:
    """Count the usage of `patterns`.  Raises StorageUnavailable.

    `sizes` returns the size of a blob of a repository, by default by a request for each that is not remembered;
    `reached` is called for each repository.  Memory: 8 bytes for each link and tag, and the names of repositories
    that begin with the fixed part of a pattern.
    """
    patterns = tuple(patterns)
    counted = Counted(clock(), dict.fromkeys(patterns, UsedAmount()))
    size_of = sizes or stored_sizes(driver)
    at_once = requests_in_flight(driver)

    async def visit(listing: RepositoryListing) -> None:
        name = listing.name
        if not any(covers(pattern, name) for pattern in patterns):
            return
        ordered = sorted(await linked_digests(driver, name))
        found = await map_bounded(ordered, lambda digest: size_of(name, digest), limit=at_once)
        for digest, size in zip(ordered, found, strict=True):
            counted.add(Thing(BLOB, name, str(digest)), size)
        async for tag in living_tags(driver, name):
            counted.add(Thing(TAG, name, tag), 1)

        async def add_upload(uuid: str) -> None:
            try:
                state = await driver.uploads.state(layout.upload_home(name, uuid))
            except UploadMissing:
                return
            counted.add(Thing(UPLOAD, name, uuid), state.offset)

        await listing.each_upload(add_upload)
        if reached is not None:
            reached()

    names = await _names(driver, patterns)
    await visit_repositories(driver, visit, names=names)
    return counted.finish()


async def _names(driver: Driver, patterns: Iterable[str]) -> set[RepoName] | None:
    """Return the repositories that begin with the fixed parts of the patterns; None if one has no fixed part."""
    found: set[RepoName] = set()
    for pattern in patterns:
        parts = pattern.split("/")
        fixed = [part for index, part in enumerate(parts) if not any("*" in each for each in parts[: index + 1])]
        if not fixed:
            return None
        async for name in _below("/".join(fixed), driver):
            found.add(name)
    return found


async def _below(fixed: str, driver: Driver) -> AsyncIterator[RepoName]:
    """Yield the repository `fixed`, if it exists, and those below it, which follow it in the catalog's order."""
    above, _, last = fixed.rpartition("/")
    before = f"{above}/{last[:-1]}" if above and last[:-1] else above or last[:-1]
    async for name in repository_names(driver, after=before, with_manifests=False):
        if name == fixed or name.startswith(f"{fixed}/"):
            yield name
        elif name.split("/") > fixed.split("/"):
            return


async def linked_digests(driver: Driver, name: RepoName) -> set[Digest]:
    """Return the digests of the layers and manifests that a repository links.  Raises StorageUnavailable."""
    found: set[Digest] = set()
    for prefix in (layout.layers(name), layout.revisions(name)):
        async for page in list_digests(driver, prefix):
            found.update(page)
    return found


def stored_sizes(driver: Driver) -> Callable[[RepoName, Digest], Awaitable[int]]:
    """Return a function for the size of a blob that a repository links; 0 if its bytes are missing."""
    remembered: LRUCache[Digest, int] = LRUCache(_SIZES)
    store, links = BlobStore(driver), Links(driver)

    async def size_of(name: RepoName, digest: Digest) -> int:
        size = remembered.get(digest)
        if size is None:
            stat = await store.stat(digest)
            if stat is None:  # a link of the reference may name another digest
                stored = await links.current(LAYER, name, digest)
                stat = None if stored in {None, digest} or stored is None else await store.stat(stored)
            size = 0 if stat is None else stat.size
            remembered.put(digest, size)
        return size

    return size_of


async def living_tags(driver: Driver, name: RepoName) -> AsyncIterator[str]:
    """Yield the tags of a repository that lead to a manifest.  Raises StorageUnavailable."""
    tags, links = TagStore(driver), Links(driver)
    alive: LRUCache[Digest, bool] = LRUCache(_SIZES)

    async def lives(text: str) -> bool:
        tag = as_tag(text)
        digest = None if tag is None else await tags.resolve(name, tag)
        if digest is None:
            return False
        known = alive.get(digest)
        if known is None:
            known = await links.exists(REVISION, name, digest)
            alive.put(digest, known)
        return known

    async for page in tags.names(name):
        found = await map_bounded(page, lives, limit=requests_in_flight(driver))
        for text, lived in zip(page, found, strict=True):
            if lived:
                yield text


async def publish(
    driver: Driver, counted: Counted | None, patterns: Iterable[str], *, clock: Callable[[], float]
) -> Base:
    """Write a base: what `counted` has, and for other patterns the base before; with all facts.

    `patterns` are kept if they were counted ever, others for 30 days.  Raises StorageError.
    """
    stored = await StoredUsage.of(driver)
    before = await read_base(driver, stored)
    ledger = Ledger(dict.fromkeys((*before.patterns, *patterns, *(counted.amounts if counted else ()))))
    ledger.replace(before, ())
    for each in stored.facts:
        if not ledger.knows(each):
            facts = await read_facts(driver, each)
            if facts is not None:
                ledger.add_stored(each, facts)
    now = clock()
    kept = set(patterns)
    amounts: dict[str, UsedAmount] = {}
    times: dict[str, float] = {}
    for pattern, at in before.counted.items():
        used = ledger.used(pattern)
        if used is not None and (pattern in kept or now - at < _FORGOTTEN_S):
            amounts[pattern], times[pattern] = used, at
    if counted is not None:
        amounts.update(_corrected(counted, ledger))
        times.update(dict.fromkeys(counted.amounts, counted.started))
    there = {each.process for each in stored.facts}
    folded = {process: number for process, number in ledger.folded().items() if process in there}
    base = Base(new_token(max(now, before.at + 0.001)), amounts, times, folded)
    await driver.write(base.key, base.encode())
    if before.token and now - before.at >= _READ_S:
        outdated = [each.key for each in stored.facts if before.includes(each)]
        outdated += [layout.usage(f"base.{token}") for token in stored.bases if token != before.token]
        await driver.delete(outdated)
    return base


def _corrected(counted: Counted, ledger: Ledger) -> dict[str, UsedAmount]:
    """Return the amounts of a walk with what changed beside it."""
    amounts = dict(counted.amounts)
    for thing, largest, after, at in ledger.changes():
        if at < counted.started - _OVERLAP_S:
            continue
        difference = after - counted.includes(thing, largest)
        if difference:
            for pattern, amount in amounts.items():
                if covers(pattern, thing.name):
                    amounts[pattern] = amount.plus(thing, difference)
    return {pattern: UsedAmount(max(0, amount.bytes), max(0, amount.tags)) for pattern, amount in amounts.items()}
