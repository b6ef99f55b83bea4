"""Condemned content of a run: what was condemned since when, and what a dead run may still remove.

Lists of earlier runs that did not end are read at the beginning, packed.  After the first mark, what of it no list
names is condemned: its entries are written from the packed sets of the mark, list by list.  So after that the
first mark has all that this run has condemned, and one byte for each candidate has the rest, if there are earlier
lists, or if a disk was full.

Above: `run.py`.  Below: `markers.py`, `work.py`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final

from moorage.gc.markers import ListEntry, encode_entries
from moorage.gc.references import unpacked
from moorage.gc.sweep import GUARD_S
from moorage.gc.work import Candidates, Stage, objects_of
from moorage.registry.collection_state import CONDEMNED, DOOMED, RUNNING, StateName
from moorage.registry.digest_list import DigestList, contains
from moorage.storage.driver import StorageExhausted, StorageReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.gc.marked import Marked
    from moorage.gc.markers import Markers

__all__ = ["QUARANTINE_S", "Condemnation"]

QUARANTINE_S: Final = 900.0
"""Seconds after the end of the process that sent it, in which a removal may still be carried out by a store."""
_RUNS: Final = 100
"""Dead runs of which lists are used; what later ones have condemned is condemned anew."""
_BLOCKED: Final = 128
_SINCE: Final = _BLOCKED - 1


class Condemnation:
    """Condemned content of the run of `markers`.  `now` returns the time by the store's clock.

    Methods raise StorageError.
    """

    def __init__(self, markers: Markers, now: Callable[[], datetime]) -> None:
        self._markers = markers
        self._now = now
        self.lists: set[StateName] = set()
        """Lists that this run has written, or may have."""
        self.quarantine: dict[StateName, datetime] = {}
        """Lists of doomed digests of dead runs, with the time until which their removals may be carried out."""
        self.is_resumed = False
        self._earlier: list[tuple[datetime, DigestList]] = []
        self._doomed = DigestList(b"")
        self._since: list[datetime] = []
        """Times of codes, from 1."""
        self._codes: bytearray | None = None

    async def inherit(self) -> None:
        """Read the lists of runs that did not end: what is condemned since when, and what may not be touched."""
        listing = await self._markers.listing()
        running = {name.token for name in listing if name.kind == RUNNING}
        lists: dict[str, list[DigestList]] = {}
        times: dict[str, datetime] = {}
        doomed: list[DigestList] = []
        for name in listing:
            if name.token == self._markers.token:
                continue
            modified = await self._markers.modified(name)
            if modified is None:
                continue
            # One from the future was written with a wrong clock; it must not be waited for.
            modified = min(modified, self._now())
            if name.kind == CONDEMNED and name.token in running:
                lists.setdefault(name.token, []).append(await self._markers.read_packed(name))
                times[name.token] = max(modified, times.get(name.token, modified))
                self.is_resumed = True
            elif name.kind == DOOMED:
                # Not until its process is dead, and what it has sent is carried out or lost.
                self.quarantine[name] = modified + timedelta(seconds=GUARD_S + QUARANTINE_S)
                doomed.append(await self._markers.read_packed(name, names=False))
        self._earlier = [(times[token], DigestList.merged(found)) for token, found in lists.items()][:_RUNS]
        self._doomed = DigestList.merged(doomed)

    async def condemn(self, marked: Marked) -> bool:
        """Write the lists of what is not condemned yet; return False if a full disk took only a part of them."""
        codes = self._inherited(marked)
        written, complete = await self._write(self._new(marked, codes))
        listed: DigestList | None = None
        if not complete:
            # As much room again is needed for the lists of doomed digests, and for the shorter ones after them.
            await self._markers.remove(sorted(self.lists))
            self.lists.clear()
            written, _ = await self._write(islice(self._new(marked, codes), max(1, written // 3)))
            listed = self._packed(islice(self._new(marked, codes), written))
        self._since = [*(since for since, _ in self._earlier), self._now()]
        if codes is None and listed is not None:
            codes = bytearray(len(marked.revisions) + len(marked.layers) + len(marked.blobs))
        if codes is not None:
            self._add_own(marked, codes, listed)
        self._codes = codes
        return complete

    def candidates(self, marked: Marked, wait_s: float) -> Candidates:
        """Return the candidates of the mark that was condemned; they are ready `wait_s` after they were."""
        before = self._now() - timedelta(seconds=wait_s)
        stages = dict.fromkeys((0, _BLOCKED), Stage.UNLISTED)
        for code, since in enumerate(self._since, 1):
            stages[code] = Stage.READY if since <= before else Stage.WAITING
            stages[code | _BLOCKED] = Stage.BLOCKED
        return Candidates(marked, self._codes, stages)

    def since(self, candidates: Candidates, stage: Stage) -> datetime:
        """Return the time at which the last one of the candidates of a stage was condemned."""
        return max(self._since[(code & _SINCE) - 1] for code in candidates.codes(stage))

    # Codes: the place of a time in `_since`, from 1, or 0; and `_BLOCKED`.

    def _inherited(self, marked: Marked) -> bytearray | None:
        """Return the codes by the lists of earlier runs, None if there are no lists."""
        if not self._earlier and not self.quarantine:
            return None
        codes = bytearray()
        doomed = [self._doomed] if self.quarantine else []
        for entry in _entries(marked):
            code = 0
            for place, (_, condemned) in enumerate(self._earlier, 1):
                if contains((condemned,), entry.name, entry.digest):
                    code = place
                    break
            codes.append(code | (_BLOCKED if contains(doomed, "", entry.digest) else 0))
        return codes

    def _new(self, marked: Marked, codes: bytearray | None) -> Iterator[ListEntry]:
        """Yield the entries of what is not condemned yet, each once."""
        seen = bytearray(len(marked.table))
        for place, ((_, number), entry) in enumerate(zip(objects_of(marked), _entries(marked), strict=True)):
            if codes is not None and codes[place] & _SINCE:
                continue
            if not entry.name:
                if seen[number]:
                    continue
                seen[number] = 1
            yield entry

    def _add_own(self, marked: Marked, codes: bytearray, listed: DigestList | None) -> None:
        """Add this run to the codes; `listed` are the entries of its lists if a full disk took only a part."""
        own = len(self._since)
        for place, entry in enumerate(_entries(marked)):
            if not codes[place] & _SINCE and (listed is None or contains((listed,), entry.name, entry.digest)):
                codes[place] |= own

    # Lists.

    async def _write(self, entries: Iterator[ListEntry]) -> tuple[int, bool]:
        """Write lists of the entries, in this order; return the number of those written, and False if it is full.

        Raises StorageExhausted if not even the smallest list can be written.
        """
        written = 0
        while part := list(islice(entries, self._markers.list_size)):
            into: dict[StateName, list[ListEntry]] = {}
            try:
                await self._markers.write_lists(CONDEMNED, part, into)
            except StorageReadOnly:
                raise
            except StorageExhausted:
                if not written:
                    raise
                return written, False
            finally:
                self.lists.update(into)
            count = sum(map(len, into.values()))
            written += count
            if count < len(part):
                return written, False
        return written, True

    def _packed(self, entries: Iterator[ListEntry]) -> DigestList:
        parts: list[DigestList] = []
        while part := list(islice(entries, self._markers.list_size)):
            parts.append(DigestList(encode_entries(part)))
        return DigestList.merged(parts)


def _entries(marked: Marked) -> Iterator[ListEntry]:
    """Yield the entry of each candidate, in the order of `objects_of`."""
    digest = marked.table.digest
    size = marked.blobs.size
    for name, number in objects_of(marked):
        yield ListEntry(unpacked(digest(number)), "" if size(number) is not None else name)
