"""Mark: finds what nothing in the store needs.

    repositories    which of them have changed; those are examined      `comparison.py`, `examination.py`
    blobs           those that no repository needs, and are not young

Everything that a mark returns was read from the store, or is in a directory that is provably the same as when
it was listed (`cache.py`).  Doubt keeps: what cannot be read is needed, an unknown name is no candidate.  A mark
beside a serving registry is no snapshot: what a push relies on meanwhile is the subject of the protocol between
requests and collectors, and what is younger than `grace_s` is never a candidate.

A second mark costs three system calls for each repository on a filesystem, and the examination of those that
have changed; in a bucket, the listing of all keys, and a read of each tag that was written since.

Not seen by this until all of a repository is read again, at the latest after the longer one of `grace_s` and
`undo_s`: a tag that was moved to a manifest which that tag had named before.  What it named until then is kept.

Memory: each digest once, and 4 bytes for each link and for each dead one once more (`packed_sets.py`); with
60,000 manifests and 300,000 links (`bench/volume.py`) the whole process had 130 MiB in the first mark.  In a
bucket, 20,000 keys or those of one repository besides, and where tags point if untagged manifests are deleted.

Below: `reachability.py`, `references.py`.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from moorage.gc.cache import BlobPrefix, MarkCache
from moorage.gc.examination import Examiner
from moorage.gc.marked import (
    PROBLEMS_LIMIT,
    Counts,
    Marked,
    SkippedObject,
    TagHistoryEntry,
)
from moorage.gc.references import RAW_BYTES, packed, raw_digests, unpacked
from moorage.gc.repositories import list_repositories, lost_directories, scan_repositories
from moorage.registry import layout
from moorage.storage.driver import Key, RequestCost

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from moorage.gc.options import CollectionOptions, Holds
    from moorage.gc.work import Work
    from moorage.storage.driver import Driver

__all__ = [
    "PROBLEMS_LIMIT",
    "Counts",
    "Marked",
    "Marker",
    "SkippedObject",
    "TagHistoryEntry",
]

_RESOLUTION: Final = timedelta(microseconds=1)
_COMPARED_AT_ONCE: Final = 1_000
_EXAMINED_AT_ONCE: Final = 100
_FOUND_AT_ONCE: Final = 2_000
_FIRST_BYTE: Final = re.compile(r"[a-f0-9]{2}")
_DATA: Final = re.compile(rf"{re.escape(layout.BLOBS)}/(sha256|sha512)/[a-f0-9]{{2}}/([a-f0-9]+)/data")


class Marker:
    """Marks one store; may be called several times in a run.

    `now` is the time by which ages are judged: that of the store at the start of the run; what is exactly
    `grace_s` old is not young.  `cache` is kept up to
    date; without one, it lives as long as this.  `progress` is called with the number of repositories that are
    done, and that of all, 0 while it is unknown.

    Raises StorageUnavailable: then nothing is known, and nothing may be removed.
    """

    def __init__(
        self,
        driver: Driver,
        options: CollectionOptions,
        *,
        now: datetime,
        cache: MarkCache | None = None,
        holds: Holds | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._driver = driver
        self._options = options
        # Files have times in nanoseconds, and many have the same one: rounded down, `now` would be before its own.
        self._at = now + _RESOLUTION
        self._now = self._at.timestamp()
        self.cache = MarkCache() if cache is None else cache
        self._holds = holds
        self._progress = progress or (lambda _done, _all: None)

    async def mark(self, wanted: Work | None = None) -> Marked:
        """Return what nothing needs now.

        With `wanted`, what of it is still dead, and `stats` of its blobs.  If it has links only, other
        repositories are passed over, since none keeps a link of another; if it has blobs, all dead links are
        returned.
        """
        marked = Marked(self.cache.digests)
        examiner = Examiner(self._driver, self.cache, self._options, self._at, self._holds, marked)
        only = None if wanted is None or wanted.blobs else wanted.repositories()
        if self._driver.request_cost is RequestCost.NETWORK:
            await self._scan_repositories(examiner, only)
            if only is None:
                await self._scan_blobs(marked, wanted)
        else:
            await self._list_repositories(examiner, marked, only)
            if only is None:
                await self._list_blobs(marked, wanted)
            if marked.blobs:
                await self._check_directories(marked)
            digests = self.cache.digests
            if digests.has_wide and any(map(digests.is_wide, marked.blobs.numbers)):
                await self._check_algorithms(examiner, marked)
        marked.counts.dead_bytes = marked.blobs.total()
        marked.waits = marked.waits or any(record.until < math.inf for record in self.cache.records.values())
        return marked

    async def _list_repositories(self, examiner: Examiner, marked: Marked, only: Collection[str] | None) -> None:
        found = await list_repositories(self._driver, self.cache)
        for name in self.cache.records.keys() - {names.name for names in found}:
            self.cache.replace(name, None)
        if only is not None:
            found = [names for names in found if names.name in only]
        done = 0
        for start in range(0, len(found), _COMPARED_AT_ONCE):
            part = found[start : start + _COMPARED_AT_ONCE]
            changed = await examiner.comparison.changed(part, marked.counts)
            done += len(part) - len(changed)
            for first in range(0, len(changed), _EXAMINED_AT_ONCE):
                few = changed[first : first + _EXAMINED_AT_ONCE]
                await examiner.examine(few, self._driver.bulk)
                done += len(few)
                self._progress(done, len(found))

    async def _check_directories(self, marked: Marked) -> None:
        """Keep all blobs while a directory of repositories is there and cannot be listed."""
        for key in await lost_directories(self._driver, self.cache):
            marked.blobs.retain(lambda _: False)
            marked.note(
                key,
                "this directory cannot be listed, and all blobs are kept: mount it, or remove a link to nowhere",
            )

    async def _scan_repositories(self, examiner: Examiner, only: Collection[str] | None) -> None:
        done: set[str] = set()
        async for found, keys in scan_repositories(self._driver):
            asked = [names for names in found if only is None or names.name in only]
            if asked:
                await examiner.examine(asked, keys)
            done.update(names.name for names in found)
            self._progress(len(done), 0)
        for name in self.cache.records.keys() - done:
            self.cache.replace(name, None)

    # Blobs.

    async def _list_blobs(self, marked: Marked, wanted: Work | None) -> None:
        """Find blobs that no repository needs, and look at them; with `wanted`, at its blobs only."""
        if wanted is None:
            await self._find_suspects(marked)
            await self._look_at_suspects(marked, sorted(self.cache.suspects), keep=False)
        else:
            found = {self.cache.digests.find(packed(digest)) for digest in wanted.blobs}
            numbers = sorted(number for number in found if number is not None)
            await self._look_at_suspects(marked, numbers, keep=True)

    async def _find_suspects(self, marked: Marked) -> None:
        """List the directories of blobs that have changed.

        A blob that appeared since its directory was listed is young: the directory need not be listed again before
        `grace_s` has passed.
        """
        cache = self.cache
        current: dict[str, BlobPrefix] = {}
        asked: list[tuple[str, str | None]] = []
        prefixes = await self._blob_prefixes()
        keys = [layout.below(layout.BLOBS, prefix) for prefix in prefixes]
        for prefix, found in zip(prefixes, await self._driver.bulk.fingerprints(keys), strict=True):
            known = cache.prefixes.get(prefix)
            unchanged = known is not None and found is not None and known.fingerprint == found
            if known is not None and (unchanged or self._now < known.listed + self._options.grace_s):
                current[prefix] = known
            else:
                asked.append((prefix, found))
        if asked:
            cache.is_changed = True
        for prefix, found in asked:
            (names,) = await self._driver.bulk.names([layout.below(layout.BLOBS, prefix)])
            self._add_blobs(prefix.partition("/")[0], names)
            current[prefix] = BlobPrefix(found, self._now, len(names))
        cache.prefixes = current
        marked.counts.blobs = sum(prefix.blobs for prefix in current.values())

    async def _blob_prefixes(self) -> list[str]:
        (algorithms,) = await self._driver.bulk.names([layout.BLOBS])
        known = [algorithm for algorithm in algorithms if algorithm in RAW_BYTES]
        listed = await self._driver.bulk.names([layout.below(layout.BLOBS, algorithm) for algorithm in known])
        return [
            f"{algorithm}/{name}"
            for algorithm, names in zip(known, listed, strict=True)
            for name in sorted(names)
            if _FIRST_BYTE.fullmatch(name)
        ]

    def _add_blobs(self, algorithm: str, names: Sequence[str]) -> None:
        cache = self.cache
        find = cache.digests.find
        counts = cache.counts
        size = len(counts)
        for raw in raw_digests(names, algorithm):
            number = find(raw)
            if number is None or number >= size or not counts[number]:
                cache.suspects.add(cache.digests.number(raw))

    async def _look_at_suspects(self, marked: Marked, numbers: Sequence[int], *, keep: bool) -> None:
        """Look at blobs; `keep` what was found of those that are dead."""
        cache = self.cache
        for start in range(0, len(numbers), _FOUND_AT_ONCE):
            part = numbers[start : start + _FOUND_AT_ONCE]
            digests = [unpacked(cache.digests.digest(number)) for number in part]
            stats = await self._driver.bulk.find([layout.blob_data(digest) for digest in digests])
            for number, digest, stat in zip(part, digests, stats, strict=True):
                if stat is None:
                    cache.suspects.discard(number)
                elif cache.needed(number):
                    continue
                elif stat.modified_s + self._options.grace_s <= self._now:
                    marked.blobs.add(number, stat.size)
                    if keep:
                        marked.stats[digest] = stat
                else:
                    marked.waits = True

    async def _check_algorithms(self, examiner: Examiner, marked: Marked) -> None:
        """Examine again the repositories that have links of an algorithm which they had not: rare, and the one
        change that no watched directory shows.
        """
        again = []
        for names in await list_repositories(self._driver, self.cache):
            record = self.cache.records.get(names.name)
            known = () if record is None else record.watched
            if not {"_layers", "_manifests/revisions"}.issubset(known):
                again.append(names)
        for start in range(0, len(again), _COMPARED_AT_ONCE):
            part = again[start : start + _COMPARED_AT_ONCE]
            roots = [f"{layout.REPOSITORIES}/{names.name}" for names in part]
            layers = await self._driver.bulk.names([Key(f"{root}/_layers") for root in roots])
            revisions = await self._driver.bulk.names([Key(f"{root}/_manifests/revisions") for root in roots])
            few = [
                names
                for names, *found in zip(part, layers, revisions, strict=True)
                if any("sha512" in one for one in found)
            ]
            if few:
                await examiner.examine(few, self._driver.bulk)
        marked.blobs.retain(lambda number: not self.cache.needed(number))

    async def _scan_blobs(self, marked: Marked, wanted: Work | None) -> None:
        """List all blobs: size and time come with the names."""
        cache = self.cache
        async for page in self._driver.scan(layout.BLOBS):
            for stat in page:
                match = _DATA.fullmatch(stat.key)
                if match is None or len(match[2]) != 2 * RAW_BYTES[match[1]]:
                    continue
                marked.counts.blobs += 1
                if stat.modified_s + self._options.grace_s > self._now:
                    continue
                raw = bytes.fromhex(match[2])
                number = cache.digests.find(raw)
                if number is not None and cache.needed(number):
                    continue
                if wanted is not None:
                    digest = unpacked(raw)
                    if digest not in wanted.blobs:
                        continue
                    marked.stats[digest] = stat
                marked.blobs.add(cache.digests.number(raw), stat.size)
