"""Sets of dead links and blobs, packed: a store of years has a million, and most of them are not used at a time.

A digest is its number in a `DigestTable` (4 bytes); objects are made while a set is iterated over.  As `Digest`,
tuple and `Stat` each would take several hundred bytes.

    DeadLinks       links, by repository                a Set of (RepoName, Digest)
    DeadBlobs       blobs with their size in bytes      a Mapping of Digest to int
    DeadHistory     entries of the history of tags      a Set of TagHistoryEntry

Above: `marked.py`.  Below: `cache.py`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple

from moorage.gc.references import packed, unpacked
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.gc.cache import DigestTable
    from moorage.gc.references import RawDigest

__all__ = ["DeadBlobs", "DeadHistory", "DeadLinks", "TagHistoryEntry"]


class TagHistoryEntry(NamedTuple):
    """An entry of a tag's history, `tags/TAG/index/ALG/HEX/link`."""

    name: RepoName
    tag: Tag
    digest: Digest


class DeadLinks(AbstractSet[tuple[RepoName, Digest]]):
    """Links, in the order in which their repositories were added; digests by the numbers of `digests`."""

    def __init__(self, digests: DigestTable) -> None:
        self._digests = digests
        self._links: dict[RepoName, array[int]] = {}
        self._size = 0

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> AbstractSet[Any]:  # Any: as in typeshed
        """Return the result of an operator, which is an ordinary set."""
        return set(it)

    def replace(self, name: RepoName, numbers: Iterable[int]) -> None:
        """Replace the links of one repository."""
        new = array("I", sorted(set(numbers)))
        self._size += len(new) - len(self._links.pop(name, ()))
        if new:
            self._links[name] = new

    def repositories(self) -> Mapping[RepoName, array[int]]:
        """Return the links of each repository, as numbers in ascending order."""
        return self._links

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __iter__(self) -> Iterator[tuple[RepoName, Digest]]:
        digest = self._digests.digest
        for name, numbers in self._links.items():
            for number in numbers:
                yield name, unpacked(digest(number))

    def __contains__(self, link: object) -> bool:
        if not isinstance(link, tuple) or len(link) != 2 or not isinstance(link[1], Digest):  # noqa: PLR2004  a pair
            return False
        numbers = self._links.get(link[0])
        if numbers is None:
            return False
        number = self._digests.find(packed(link[1]))
        return number is not None and _place(numbers, number) is not None

    def __repr__(self) -> str:
        return repr(set(self))


class DeadBlobs(Mapping[Digest, int]):
    """Blobs and their sizes in bytes, in the order of their numbers."""

    def __init__(self, digests: DigestTable) -> None:
        self._digests = digests
        self._numbers = array("I")
        self._sizes = array("Q")
        self._is_sorted = True

    def add(self, number: int, size: int) -> None:
        """Add a blob that was not added before."""
        self._is_sorted = self._is_sorted and (not self._numbers or self._numbers[-1] < number)
        self._numbers.append(number)
        self._sizes.append(size)

    def retain(self, test: Callable[[int], bool]) -> None:
        """Remove all blobs whose number does not pass the test."""
        numbers, sizes = array("I"), array("Q")
        for number, size in self.sizes():
            if test(number):
                numbers.append(number)
                sizes.append(size)
        self._numbers, self._sizes = numbers, sizes

    @property
    def numbers(self) -> array[int]:
        """The numbers of all blobs, in ascending order."""
        if not self._is_sorted:
            order = sorted(range(len(self._numbers)), key=self._numbers.__getitem__)
            self._numbers = array("I", (self._numbers[at] for at in order))
            self._sizes = array("Q", (self._sizes[at] for at in order))
            self._is_sorted = True
        return self._numbers

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Return the number and the size of each blob."""
        return zip(self.numbers, self._sizes, strict=True)

    def total(self) -> int:
        """Return the bytes of all blobs."""
        return sum(self._sizes)

    def size(self, number: int) -> int | None:
        """Return the size of the blob of this number; None if it is none of them."""
        at = _place(self.numbers, number)
        return None if at is None else self._sizes[at]

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Digest]:
        digest = self._digests.digest
        return (unpacked(digest(number)) for number in self.numbers)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, Digest) and self.has(packed(digest))

    def has(self, raw: RawDigest) -> bool:
        """Return whether it has the blob of these bytes of a digest."""
        number = self._digests.find(raw)
        return number is not None and _place(self.numbers, number) is not None

    def __getitem__(self, digest: Digest) -> int:
        number = self._digests.find(packed(digest))
        size = None if number is None else self.size(number)
        if size is None:
            raise KeyError(digest)
        return size

    def __repr__(self) -> str:
        return repr(dict(self))


class DeadHistory(AbstractSet[TagHistoryEntry]):
    """Entries of the history of tags, in the order in which they were added."""

    def __init__(self, digests: DigestTable) -> None:
        self._digests = digests
        self._entries: dict[RepoName, tuple[list[Tag], array[int]]] = {}
        self._size = 0

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> AbstractSet[Any]:  # Any: as in typeshed
        """Return the result of an operator, which is an ordinary set."""
        return set(it)

    def replace(self, name: RepoName, entries: Iterable[tuple[str, int]]) -> None:
        """Replace the entries of one repository, which are different ones: tags, and numbers of digests."""
        tags: list[Tag] = []
        numbers = array("I")
        same: dict[str, Tag] = {}
        for tag, number in entries:
            tags.append(same.setdefault(tag, Tag(tag)))
            numbers.append(number)
        before = self._entries.pop(name, None)
        self._size += len(tags) - (0 if before is None else len(before[0]))
        if tags:
            self._entries[name] = tags, numbers

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __iter__(self) -> Iterator[TagHistoryEntry]:
        digest = self._digests.digest
        for name, (tags, numbers) in self._entries.items():
            for tag, number in zip(tags, numbers, strict=True):
                yield TagHistoryEntry(name, tag, unpacked(digest(number)))

    def __contains__(self, entry: object) -> bool:
        return any(entry == found for found in self)


def _place(numbers: array[int], number: int) -> int | None:
    """Return the index of a number in ascending ones; None if it is none of them."""
    at = bisect_left(numbers, number)
    return at if at < len(numbers) and numbers[at] == number else None
