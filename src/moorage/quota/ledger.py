"""Ledger: the usage of each pattern in the memory of one process: a base, and the facts that came after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.quota.facts import UPLOAD, Base, Fact, FactId, UsedAmount
from moorage.quota.limits import covers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.quota.facts import Thing
    from moorage.types import RepoName

__all__ = ["Ledger"]

_NAMES: Final = 10_000


@dataclass(slots=True)
class _Change:
    """The first value of a thing, its last and its largest one, of the facts that are not in the base."""

    first_at: float
    before: int
    last_at: float
    after: int
    largest: int = 0

    def add(self, fact: Fact) -> None:
        self.largest = max(self.largest, fact.before, fact.after)
        if fact.thing.kind == UPLOAD:
            # Its requests reach any node.  It grows and ends once, so the order needs no clock.
            self.before = min(self.before, fact.before)
            self.after = (
                0 if fact.after == 0 or (self.after == 0 and self.last_at) else max(self.after, fact.after)
            )
            self.last_at = max(self.last_at, fact.at)
            return
        if fact.at < self.first_at:
            self.first_at, self.before = fact.at, fact.before
        if fact.at >= self.last_at:
            self.last_at, self.after = fact.at, fact.after


class Ledger:
    """Usage of `patterns`.  Numbers change at once; nothing here waits or reads the store."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.base = Base()
        self._patterns = tuple(patterns)
        self._sums: dict[str, UsedAmount] = {}
        self._changes: dict[Thing, _Change] = {}
        self._stored: dict[FactId, Sequence[Fact]] = {}
        self._names: LRUCache[RepoName, tuple[str, ...]] = LRUCache(_NAMES)

    def patterns_of(self, name: RepoName) -> tuple[str, ...]:
        """Return the patterns that cover a repository."""
        found = self._names.get(name)
        if found is None:
            found = tuple(pattern for pattern in self._patterns if covers(pattern, name))
            self._names.put(name, found)
        return found

    def used(self, pattern: str) -> UsedAmount | None:
        """Return the usage of a pattern; None if it was never counted."""
        base = self.base.patterns.get(pattern)
        if base is None:
            return None
        change = self._sums.get(pattern, _NOTHING)
        return UsedAmount(max(0, base.bytes + change.bytes), max(0, base.tags + change.tags))

    def value(self, thing: Thing) -> int | None:
        """Return the last known value of a thing; None if no fact is about it."""
        change = self._changes.get(thing)
        return None if change is None else change.after

    @property
    def size(self) -> tuple[int, int]:
        """The number of objects with facts, and of things that they are about."""
        return len(self._stored), len(self._changes)

    def knows(self, fact: FactId) -> bool:
        """Return whether the facts of an object are counted here."""
        return fact in self._stored or self.base.includes(fact)

    def add(self, fact: Fact) -> None:
        """Count a fact."""
        thing = fact.thing
        patterns = self.patterns_of(thing.name)
        if not patterns:
            return
        change = self._changes.get(thing)
        if change is None:
            change = self._changes[thing] = _Change(fact.at, fact.before, 0.0, fact.before)
        counted = change.after - change.before
        change.add(fact)
        difference = change.after - change.before - counted
        if difference:
            for pattern in patterns:
                self._sums[pattern] = self._sums.get(pattern, _NOTHING).plus(thing, difference)

    def add_stored(self, stored: FactId, facts: Sequence[Fact], *, own: bool = False) -> None:
        """Count the facts of an object; `own`: they have been added already."""
        self._stored[stored] = facts
        if not own:
            for fact in facts:
                self.add(fact)

    def replace(self, base: Base, fresh: Iterable[Fact]) -> None:
        """Continue from another base; `fresh` are the facts that are in no object yet."""
        self.base = base
        self._sums = {}
        self._changes = {}
        self._stored = {stored: facts for stored, facts in self._stored.items() if not base.includes(stored)}
        for facts in (*self._stored.values(), fresh):
            for fact in facts:
                self.add(fact)

    def changes(self) -> Iterable[tuple[Thing, int, int, float]]:
        """Yield each thing, the largest of its values, the last one, and the time of the last fact."""
        for thing, change in self._changes.items():
            yield thing, change.largest, change.after, change.last_at

    def folded(self) -> dict[str, int]:
        """Return the number of the last object of each process whose facts are counted here."""
        found = dict(self.base.folded)
        for stored in self._stored:
            found[stored.process] = max(found.get(stored.process, -1), stored.number)
        return found


_NOTHING: Final = UsedAmount()
