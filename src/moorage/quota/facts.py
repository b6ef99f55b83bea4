"""Stored usage: bases, which processes count, and facts, which they append.  Owner of the keys below `usage/`.

    base.TOKEN              sums for each pattern, and the facts that they include; the newest one is valid
    facts.PROCESS.NNNNNNNN  changes that one process has made, numbered from 0
    wanted                  a push was refused by old numbers: count again soon

Both are written once and never changed.  A base names for each process the number up to which it includes the
facts of that process, so no clock decides what is counted twice or never.  Objects that a base includes are
removed when that base is a minute old, and every process has read it (`usage.py`).

A fact has the value of one thing before and after: the size of a blob that a repository links, or 0; the bytes
of an unfinished upload; 1 for a tag.  Two processes that link the same blob at the same moment write the same
fact, which counts once.

All of it can be deleted: it is counted again.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorage.errors import RegistryError
from moorage.registry import layout
from moorage.registry.records import decode_record, read_record, report_damage
from moorage.storage.driver import READ_LIMIT_BYTES, KeyMissing, ObjectTooLarge
from moorage.types import RepoName, parse_repo_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.storage.driver import Driver, Key

__all__ = [
    "BLOB",
    "TAG",
    "UPLOAD",
    "WANTED",
    "Base",
    "Fact",
    "FactId",
    "StoredUsage",
    "Thing",
    "UsedAmount",
    "decode_facts",
    "encode_facts",
    "new_process",
    "new_token",
    "read_base",
    "read_facts",
]

BLOB: Final = "blob"
TAG: Final = "tag"
UPLOAD: Final = "upload"
WANTED: Final = "wanted"
_KINDS: Final = {BLOB, TAG, UPLOAD}
_VERSION: Final = 1
_LIMIT_BYTES: Final = READ_LIMIT_BYTES
"""More than any object with facts has: at most 5000, of 500 bytes with the longest names (`usage.py`)."""
_BASE_REMEDY: Final = "usage is that of the base before, or counted again; remove the object"
_FACTS_REMEDY: Final = "usage lacks these changes until the next count (quota.interval), which needs no facts"


class Thing(NamedTuple):
    """Something that counts: `kind` is blob, tag or upload; `text` a digest, a tag or a UUID."""

    kind: str
    name: RepoName
    text: str


class Fact(NamedTuple):
    """The value of a thing before and after a change, and the time of the change on the node's clock."""

    thing: Thing
    before: int
    after: int
    at: float


class FactId(NamedTuple):
    """The object that has a fact."""

    process: str
    number: int

    @property
    def key(self) -> Key:
        return layout.usage(f"facts.{self.process}.{self.number:08}")


class UsedAmount(NamedTuple):
    """Bytes and tags."""

    bytes: int = 0
    tags: int = 0

    def plus(self, thing: Thing, value: int) -> UsedAmount:
        if thing.kind == TAG:
            return UsedAmount(self.bytes, self.tags + value)
        return UsedAmount(self.bytes + value, self.tags)


@dataclass(frozen=True, slots=True)
class Base:
    """The usage of `patterns`, with the facts of each process up to and including its number in `folded`.

    `counted` are the times at which the patterns were last counted by a walk, in seconds since 1970.
    """

    token: str = ""
    patterns: dict[str, UsedAmount] = field(default_factory=dict)
    counted: dict[str, float] = field(default_factory=dict)
    folded: dict[str, int] = field(default_factory=dict)

    @property
    def at(self) -> float:
        """Return the time at which it was written, in seconds since 1970."""
        return int(self.token.partition("-")[0] or 0) / 1000

    @property
    def key(self) -> Key:
        return layout.usage(f"base.{self.token}")

    def includes(self, fact: FactId) -> bool:
        return fact.number <= self.folded.get(fact.process, -1)

    def encode(self) -> bytes:
        patterns = {
            pattern: {"bytes": amount.bytes, "tags": amount.tags, "counted": self.counted[pattern]}
            for pattern, amount in self.patterns.items()
        }
        return json.dumps({"version": _VERSION, "patterns": patterns, "folded": self.folded}).encode()

    @classmethod
    def decode(cls, token: str, content: dict[str, Any]) -> Base | None:
        """Return the base with these fields; None, after a line in the log, for those of no or another version."""
        try:
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']!r} is not known")
            patterns = content["patterns"].items()
            return cls(
                token,
                {pattern: UsedAmount(int(each["bytes"]), int(each["tags"])) for pattern, each in patterns},
                {pattern: float(each["counted"]) for pattern, each in patterns},
                {process: int(number) for process, number in content["folded"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            report_damage(cls(token).key, f"no base: {error!r}", remedy=_BASE_REMEDY)
            return None


@dataclass(slots=True)
class StoredUsage:
    """Names of the stored objects: tokens of the bases in order, and the facts."""

    bases: list[str] = field(default_factory=list)
    facts: list[FactId] = field(default_factory=list)
    wanted: bool = False

    @classmethod
    async def of(cls, driver: Driver) -> StoredUsage:
        """List them.  Raises StorageUnavailable."""
        found = cls()
        async for names in driver.children(layout.USAGE):
            for name in names:
                kind, _, rest = name.partition(".")
                process, _, number = rest.rpartition(".")
                if kind == "base" and rest.partition("-")[0].isdecimal():
                    found.bases.append(rest)
                elif name == WANTED:
                    found.wanted = True
                elif kind == "facts" and process and number.isdecimal():
                    found.facts.append(FactId(process, int(number)))
        found.bases.sort()
        return found


def new_process() -> str:
    """Return a name that no other process has."""
    return os.urandom(8).hex()


def new_token(now: float) -> str:
    """Return a token for a base; tokens sort by time."""
    return f"{int(now * 1000):013}-{os.urandom(4).hex()}"


def encode_facts(facts: Iterable[Fact]) -> bytes:
    """Return the content of an object: a JSON array on each line, below one with the version."""
    lines = [json.dumps([*fact.thing, fact.before, fact.after, round(fact.at, 3)]) for fact in facts]
    return "\n".join([json.dumps({"version": _VERSION}), *lines, ""]).encode()


def decode_facts(key: Key, data: bytes) -> list[Fact]:
    """Return the facts in the content of the object `key`.

    Of another version there are none, and lines that are no fact are left out; either has a line in the log.
    """
    first, _, rest = data.partition(b"\n")
    version = decode_record(key, first, remedy=_FACTS_REMEDY).get("version")
    if version != _VERSION:
        report_damage(key, f"version {version!r} is not known", remedy=_FACTS_REMEDY)
        return []
    lines = rest.splitlines()
    found = [fact for fact in map(_decode_fact, lines) if fact is not None]
    if len(found) < len(lines):
        cause = f"{len(lines) - len(found)} of {len(lines)} lines are no facts"
        report_damage(key, cause, remedy=_FACTS_REMEDY)
    return found


def _decode_fact(line: bytes) -> Fact | None:
    try:
        kind, name, text, before, after, at = json.loads(line)
        if kind not in _KINDS:
            return None
        return Fact(Thing(kind, parse_repo_name(name), str(text)), int(before), int(after), float(at))
    except (ValueError, TypeError, RecursionError, OverflowError, RegistryError):
        return None


async def read_base(driver: Driver, stored: StoredUsage) -> Base:
    """Return the newest base that can be read, else one without patterns.  Raises StorageUnavailable."""
    for token in reversed(stored.bases):
        key = layout.usage(f"base.{token}")
        fields = await read_record(driver, key, remedy=_BASE_REMEDY, limit=_LIMIT_BYTES)
        found = None if fields is None else Base.decode(token, fields)
        if found is not None:
            return found
    return Base()


async def read_facts(driver: Driver, fact: FactId) -> list[Fact] | None:
    """Return the facts of an object, without damaged ones; None if it was removed meanwhile.

    Raises StorageUnavailable.
    """
    try:
        content = await driver.read(fact.key, limit=_LIMIT_BYTES)
    except KeyMissing:
        return None
    except ObjectTooLarge:
        # Read once, and removed with the base that includes it.
        report_damage(fact.key, f"it is larger than {_LIMIT_BYTES} bytes", remedy=_FACTS_REMEDY)
        return []
    return decode_facts(fact.key, content.data)
