"""Work of a sweep: what one round removes, and the rounds in which all candidates of a stage are removed.

If everything fits into one round, it is removed in one.  Else rounds of links come first, each of whole
repositories, then rounds of bytes.  `gc/__init__.py` (4) has the reasons.

Above: `sweep.py`, `run.py`.  Below: `marked.py`, `manifest_graph.py`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Final

from moorage.gc.markers import ListEntry
from moorage.gc.references import unpacked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from moorage.gc.manifest_graph import ManifestGraph
    from moorage.gc.marked import Marked
    from moorage.gc.packed_sets import DeadLinks
    from moorage.types import Digest, RepoName

__all__ = ["LOCAL_ROUND", "REMOTE_ROUND", "Candidates", "Stage", "Work", "entry_of", "objects_of"]

LOCAL_ROUND: Final = 20_000
REMOTE_ROUND: Final = 50_000
"""Objects of one round, which take about 600 bytes of memory each while it lasts.

The look of a round lists a whole bucket, but on a filesystem only what has changed.  A repository that has more
objects is in a round of its own, of which layer links may be split off.
"""
_READ_AT_ONCE: Final = 1_000
"""Manifests of which all references are in memory at a time."""


@dataclass(slots=True)
class Work:
    """Content to remove: links, and blobs whose bytes are dead in the whole store."""

    revisions: set[tuple[RepoName, Digest]] = field(default_factory=set)
    layers: set[tuple[RepoName, Digest]] = field(default_factory=set)
    blobs: set[Digest] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.revisions) + len(self.layers) + len(self.blobs)

    def without(self, done: Work) -> Work:
        """Return what is not part of `done`."""
        return Work(self.revisions - done.revisions, self.layers - done.layers, self.blobs - done.blobs)

    def repositories(self) -> set[RepoName]:
        """Return the repositories of the links."""
        return {name for name, _ in chain(self.revisions, self.layers)}


def entry_of(link: tuple[RepoName, Digest], blobs: Collection[Digest]) -> ListEntry:
    """Return the entry of a dead link; `blobs` are those whose bytes are dead."""
    name, digest = link
    return ListEntry(digest) if digest in blobs else ListEntry(digest, name)


def objects_of(marked: Marked) -> Iterator[tuple[str, int]]:
    """Yield all candidates as repository, "" for blobs, and number: revisions, then layers, then blobs.

    Revisions first: what a full disk leaves in no list must not be a manifest whose layers are removed.
    """
    for links in (marked.revisions, marked.layers):
        for name, numbers in links.repositories().items():
            for number in numbers:
                yield name, number
    for number in marked.blobs.numbers:
        yield "", number


class Stage(Enum):
    """Time at which a run may remove a candidate."""

    UNLISTED = "in another run: a full disk took no list that names it"
    READY = "now: it was condemned long enough ago"
    WAITING = "after the wait"
    BLOCKED = "after the quarantine: a removal of a dead run may still be carried out"


_ORDER: Final = {Stage.READY: 0, Stage.WAITING: 1, Stage.BLOCKED: 2, Stage.UNLISTED: 3}
"""Stages in the order in which a run comes to them; it does not come to the last one."""


class Candidates:
    """Candidates of one mark, each with its stage.

    `codes` has one byte for each, in the order of `objects_of`; None: all of them are of code 1.  `stages` has the
    stage of each code.
    """

    def __init__(self, marked: Marked, codes: bytearray | None, stages: dict[int, Stage]) -> None:
        self._marked = marked
        self._codes = codes
        self._stages = stages
        self._layers_at = len(marked.revisions)
        self._blobs_at = self._layers_at + len(marked.layers)
        self._size = self._blobs_at + len(marked.blobs)

    def codes(self, stage: Stage) -> dict[int, int]:
        """Return the codes of a stage, each with the number of candidates that have it."""
        counts = (
            {1: self._size} if self._codes is None else {code: self._codes.count(code) for code in self._stages}
        )
        return {code: count for code, count in counts.items() if count and self._stages[code] is stage}

    def count(self, stage: Stage) -> int:
        """Return the number of candidates of a stage."""
        return sum(self.codes(stage).values())

    def entry_count(self, stage: Stage) -> int:
        """Return the number of entries of lists that name the candidates of a stage."""
        revisions = dict(self._links(stage, self._marked.revisions, 0))
        layers = dict(self._links(stage, self._marked.layers, self._layers_at))
        count = len(self._blobs(stage))
        for name in dict.fromkeys(chain(revisions, layers)):
            numbers = {*revisions.get(name, ()), *layers.get(name, ())}
            # A link to dead bytes is named by the entry of these.
            count += sum(self._marked.blobs.size(number) is None for number in numbers)
        return count

    async def postpone(self, graph: ManifestGraph) -> None:
        """Move what a manifest keeps to the stage at which that goes, if it is the later one.

        A round would look at it and leave it, since a link of the manifest is left.  Raises StorageUnavailable.
        """
        codes = self._codes
        if codes is None:
            return
        for stage in (Stage.UNLISTED, Stage.BLOCKED, Stage.WAITING):
            later = dict(self._links(stage, self._marked.revisions, 0))
            earlier = {code for code, found in self._stages.items() if _ORDER[found] < _ORDER[stage]}
            if not later or not any(codes.count(code) for code in earlier):
                continue
            named = await self._named(later.values(), graph)
            code = next(iter(self.codes(stage)))
            for place, (_, number) in enumerate(objects_of(self._marked)):
                if named[number] and codes[place] in earlier:
                    codes[place] = code

    async def _named(self, revisions: Iterable[array[int]], graph: ManifestGraph) -> bytearray:
        """Return a byte for each digest: 1 if one of the manifests names it, or a dead one that it names does."""
        table = self._marked.table
        named = bytearray(len(table))
        manifests = bytearray(len(table))
        for numbers in self._marked.revisions.repositories().values():
            for number in numbers:
                manifests[number] = 1
        waiting = array("I", chain.from_iterable(revisions))
        while waiting:
            below = array("I")
            for start in range(0, len(waiting), _READ_AT_ONCE):
                part = waiting[start : start + _READ_AT_ONCE]
                for raw in await graph.named([unpacked(table.digest(number)) for number in part]):
                    found = table.find(raw)
                    if found is not None and not named[found]:
                        named[found] = 1
                        if manifests[found]:
                            below.append(found)
            waiting = below
        return named

    def rounds(self, stage: Stage, limit: int) -> Iterator[Work]:
        """Yield all candidates of a stage, at most `limit` of them at a time unless one repository has more."""
        if not self.count(stage):
            return
        work = Work()
        fits = self.count(stage) <= limit
        for part in self._rounds_of_links(stage, limit):
            if fits:
                work = part
            else:
                yield part
        digest = self._marked.table.digest
        for number in self._blobs(stage):
            work.blobs.add(unpacked(digest(number)))
            if len(work.blobs) == limit:
                yield work
                work = Work()
        if len(work):
            yield work

    def _rounds_of_links(self, stage: Stage, limit: int) -> Iterator[Work]:
        digest = self._marked.table.digest
        revisions = dict(self._links(stage, self._marked.revisions, 0))
        layers = dict(self._links(stage, self._marked.layers, self._layers_at))
        work = Work()
        for name in dict.fromkeys(chain(revisions, layers)):
            size = len(revisions.get(name, ())) + len(layers.get(name, ()))
            if len(work) and len(work) + size > limit:
                yield work
                work = Work()
            work.revisions.update((name, unpacked(digest(number))) for number in revisions.get(name, ()))
            work.layers.update((name, unpacked(digest(number))) for number in layers.get(name, ()))
            if len(work) > limit:
                yield from _split(work, limit)
                work = Work()
        if len(work):
            yield work

    def _links(self, stage: Stage, links: DeadLinks, start: int) -> Iterator[tuple[RepoName, array[int]]]:
        """Yield the links of a stage by repository; `start` is the place of the first one among the codes."""
        for name, numbers in links.repositories().items():
            found = self._of_stage(stage, numbers, start)
            start += len(numbers)
            if found:
                yield name, found

    def _blobs(self, stage: Stage) -> array[int]:
        return self._of_stage(stage, self._marked.blobs.numbers, self._blobs_at)

    def _of_stage(self, stage: Stage, numbers: array[int], start: int) -> array[int]:
        if self._codes is None:
            return numbers if self._stages[1] is stage else array("I")
        codes, stages = self._codes, self._stages
        return array("I", (number for at, number in enumerate(numbers, start) if stages[codes[at]] is stage))


def _split(work: Work, limit: int) -> Iterator[Work]:
    """Yield the work in a repository that has more than `limit`: revisions in one round, as they have an order."""
    if work.revisions:
        yield Work(work.revisions)
    layers = sorted(work.layers)
    for start in range(0, len(layers), limit):
        yield Work(layers=set(layers[start : start + limit]))
