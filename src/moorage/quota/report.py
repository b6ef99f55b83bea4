"""Report of `moorage usage`: the bytes of each repository, which of them it shares with others, and its tags.

    listing of all blobs     `blob_table.py`
    walk of all repositories 4 bytes for each link; how many repositories link each blob
    sums                     unique: blobs that one repository links; shared: all others

Memory: 24 bytes for each blob, 4 for each link, and a small record for each repository.

Above: `cli/usage.py`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from moorage.quota.blob_table import BlobTable
from moorage.quota.count import linked_digests, living_tags
from moorage.registry.blob_store import BlobStore
from moorage.registry.links import LAYER, Links
from moorage.registry.walk import visit_repositories

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from moorage.registry.walk import RepositoryListing
    from moorage.storage.driver import Driver
    from moorage.types import Digest, RepoName

    class UsageReporter(Protocol):
        """Receives the progress."""

        def phase(self, name: str) -> None:
            """Begin a phase."""

        def advanced(self, count: int) -> None:
            """Add blobs, then repositories, that are done."""


__all__ = ["RepositoryUsage", "UsageReport", "make_report"]


class RepositoryUsage(NamedTuple):
    """Usage of one repository.  `total` is `unique` + `shared`; `missing` counts links to lost bytes."""

    name: RepoName
    total: int
    unique: int
    shared: int
    tags: int
    missing: int


@dataclass(slots=True)
class _Linked:
    """Links of a repository: numbers of blobs, and the bytes of those that were stored after the listing."""

    blobs: array[int]
    later: int
    tags: int
    missing: int


@dataclass(slots=True)
class UsageReport:
    """Usage of the repositories of a store.  `stored` are the bytes of all blobs, each counted once."""

    table: BlobTable
    stored: int = 0
    _linked: dict[RepoName, _Linked] = field(default_factory=dict)
    _sizes: array[int] = field(default_factory=lambda: array("Q"))
    _links: array[int] = field(default_factory=lambda: array("I"))

    def __post_init__(self) -> None:
        self._sizes = self.table.sizes()
        self.stored = sum(self._sizes)
        self._links = array("I", bytes(4 * len(self._sizes)))

    def add(self, name: RepoName, linked: _Linked) -> None:
        self._linked[name] = linked
        for number in linked.blobs:
            self._links[number] += 1

    def repositories(self, prefix: str = "") -> Iterator[RepositoryUsage]:
        """Yield the repositories at and below `prefix`, largest first."""
        chosen = [name for name in self._linked if not prefix or name == prefix or name.startswith(f"{prefix}/")]
        found = [self._usage(name, self._linked[name]) for name in chosen]
        yield from sorted(found, key=lambda usage: (-usage.total, usage.name))

    def _usage(self, name: RepoName, linked: _Linked) -> RepositoryUsage:
        unique, shared = linked.later, 0
        for number in linked.blobs:
            if self._links[number] == 1:
                unique += self._sizes[number]
            else:
                shared += self._sizes[number]
        return RepositoryUsage(name, unique + shared, unique, shared, linked.tags, linked.missing)

    def distinct(self, prefix: str = "") -> int:
        """Return the bytes of the blobs that the repositories at and below `prefix` link, each counted once."""
        seen = bytearray(len(self._sizes))
        later = 0
        for usage in self.repositories(prefix):
            linked = self._linked[usage.name]
            later += linked.later
            for number in linked.blobs:
                seen[number] = 1
        return later + sum(size for size, there in zip(self._sizes, seen, strict=True) if there)


async def make_report(driver: Driver, reporter: UsageReporter) -> UsageReport:
    """Read the whole store.  Raises StorageUnavailable."""
    reporter.phase("blobs listed")
    report = UsageReport(await BlobTable.load(driver, reporter.advanced))
    store, links = BlobStore(driver), Links(driver)

    async def outside_table(name: RepoName, digest: Digest) -> tuple[int | None, int | None]:
        """Return the number, or else the size, of a blob that another digest names or that was stored later."""
        stored = await links.current(LAYER, name, digest) or digest
        number = report.table.number(stored)
        if number is not None:
            return number, None
        stat = await store.stat(stored)
        return None, None if stat is None else stat.size

    async def visit(listing: RepositoryListing) -> None:
        name = listing.name
        linked = _Linked(array("I"), 0, 0, 0)
        numbers: set[int] = set()
        for digest in await linked_digests(driver, name):
            number, size = report.table.number(digest), None
            if number is None:
                number, size = await outside_table(name, digest)
            if number is not None:
                numbers.add(number)
            elif size is not None:
                linked.later += size
            else:
                linked.missing += 1
        linked.blobs = array("I", sorted(numbers))
        async for _ in living_tags(driver, name):
            linked.tags += 1
        report.add(name, linked)
        reporter.advanced(1)

    reporter.phase("repositories read")
    await visit_repositories(driver, visit)
    return report
