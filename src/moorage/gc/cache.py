"""Cache of a mark: what was read from the store, with the fingerprints under which it is still current.

Losing it costs time only.  It is never believed against the store: a name of a directory is used while the
fingerprint of that directory is the one that it had directly before it was listed; the references of a manifest
never change.  The number of repositories that need a blob is kept with the names from which it was counted.

Digests are numbered: `DigestTable` has each once, everything else refers to them by number in arrays of 4 bytes.
The file of a store of 20,000 manifests and 100,000 links has 6 MB.

The file is one header, the sections and a checksum; it is replaced by a rename.  A damaged one, one of another
version or of another store is ignored with a line in the log.

Above: `mark.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.gc.references import References

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.gc.references import RawDigest

__all__ = ["BlobPrefix", "DigestTable", "Directory", "MarkCache", "Record"]

_MAGIC: Final = b"moorage-mark-2\n"
_RAW: Final = 32
_WIDE: Final = 64
_SUM_BYTES: Final = 32
_LARGEST_BYTES: Final = 1 << 32
LATER_LIMIT: Final = 200_000
"""Digests in a dict, with 150 bytes each; packed, each has 36, and is found in 20 steps."""
_log: Final = structlog.get_logger("moorage.gc")


class DigestTable:
    """Digests by number and numbers by digest.

    Digests of a file are searched by bisection in one sorted array, without a Python object for each; those that
    come later are in a dict, up to `LATER_LIMIT`, and are then packed in the same way.
    """

    def __init__(
        self, base: bytes = b"", order: array[int] | None = None, wide: dict[int, RawDigest] | None = None
    ) -> None:
        self._load(base, order if order is not None else array("I"), wide if wide is not None else {})
        self.has_wide = bool(self._wide)
        """Whether there is a digest of sha512."""

    def _load(self, base: bytes, order: array[int], wide: dict[int, RawDigest]) -> None:
        """Take sections of a file, or of this table, as its content."""
        self._base = base
        self._size = len(base) // _RAW
        self._order = order
        self._wide = wide
        self._later: list[RawDigest] = []
        self._numbers: dict[RawDigest, int] = {raw: number for number, raw in wide.items()}

    def __len__(self) -> int:
        return self._size + len(self._later)

    def digest(self, number: int) -> RawDigest:
        if number >= self._size:
            return self._later[number - self._size]
        wide = self._wide.get(number) if self._wide else None
        return wide or self._base[number * _RAW : number * _RAW + _RAW]

    def is_wide(self, number: int) -> bool:
        """Return whether a digest is of sha512."""
        return len(self.digest(number)) != _RAW

    def find(self, raw: RawDigest) -> int | None:
        """Return the number of a digest, None if it has none."""
        number = self._numbers.get(raw)
        if number is not None or not self._size or len(raw) != _RAW:
            return number
        base = self._base
        order = self._order
        low = 0
        high = len(order)
        while low < high:
            middle = (low + high) >> 1
            at = order[middle] * _RAW
            if base[at : at + _RAW] < raw:
                low = middle + 1
            else:
                high = middle
        if low < len(order) and self._base[order[low] * _RAW : order[low] * _RAW + _RAW] == raw:
            return order[low]
        return None

    def number(self, raw: RawDigest) -> int:
        """Return the number of a digest; a new one if it has none."""
        found = self.find(raw)
        if found is None:
            if len(self._later) >= LATER_LIMIT:
                self._load(*self.sections())
            found = self._size + len(self._later)
            self._later.append(raw)
            self.has_wide = self.has_wide or len(raw) != _RAW
            self._numbers[raw] = found
        return found

    def sections(self) -> tuple[bytes, array[int], dict[int, RawDigest]]:
        """Return the arguments that make this table, by number."""
        base = b"".join([self._base, *(raw[:_RAW] for raw in self._later)])
        wide = dict(self._wide)
        wide.update((self._size + i, raw) for i, raw in enumerate(self._later) if len(raw) != _RAW)
        later = [i for i, raw in enumerate(self._later) if len(raw) == _RAW]
        later.sort(key=self._later.__getitem__)
        return base, self._merged((self._size + i for i in later), base), wide

    def _merged(self, later: Iterable[int], base: bytes) -> array[int]:
        """Merge numbers sorted by digest into the sorted ones of the file; few into many."""
        merged = array("I")
        start = 0
        for number in later:
            raw = base[number * _RAW : number * _RAW + _RAW]
            low = start
            high = len(self._order)
            while low < high:
                middle = (low + high) >> 1
                at = self._order[middle] * _RAW
                if base[at : at + _RAW] < raw:
                    low = middle + 1
                else:
                    high = middle
            merged.extend(self._order[start:low])
            merged.append(number)
            start = low
        merged.extend(self._order[start:])
        return merged


@dataclass(slots=True)
class Record:
    """The last examination of one repository; digests by number.

    `prints` are the fingerprints of the directories `watched`, below the repository; `reserved` are the names in
    its own directory that begin with `_`; `empty` entries without a link.  `needs` are the blobs that it needs.
    `until`: the first moment at which a time in the judgement runs out; `examined`: when everything was read.
    `tags`, in a bucket: where tags pointed, with the time of their link; nothing is removed by it.
    `settled` is False if anything is to be removed or was reported: such a repository is examined every time.
    """

    watched: tuple[str, ...]
    prints: tuple[str | None, ...]
    reserved: tuple[str, ...]
    layers: array[int]
    revisions: array[int]
    modified: array[float]
    needs: array[int]
    empty: tuple[str, ...] = ()
    until: float = 0.0
    examined: float = 0.0
    settled: bool = False
    tags: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Directory:
    """A directory on the way to repositories, or of one.  `reserved` are names that begin with `_`."""

    fingerprint: str | None = None
    components: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()


@dataclass(slots=True)
class BlobPrefix:
    """A directory `blobs/ALG/HH`: its fingerprint, the time and the number of blobs of its last listing."""

    fingerprint: str | None
    listed: float
    blobs: int


@dataclass(slots=True)
class MarkCache:
    """See the module.  `origin` names the store; `options` those that a judgement depends on."""

    origin: str = ""
    options: str = ""
    digests: DigestTable = field(default_factory=DigestTable)
    counts: array[int] = field(default_factory=lambda: array("I"))
    """For each digest the number of repositories that need it."""
    suspects: set[int] = field(default_factory=set)
    """Blobs that no repository needs; some may be young, or gone."""
    directories: dict[str, Directory] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    prefixes: dict[str, BlobPrefix] = field(default_factory=dict)
    is_changed: bool = field(default=True, compare=False)
    """Whether it differs from its file in anything that saves work."""
    _at: array[int] = field(default_factory=lambda: array("I"))
    _references: array[int] = field(default_factory=lambda: array("I", [0]))

    def without_judgements(self) -> MarkCache:
        """Return a cache for a mark with other options; both share names and references, and neither is lost."""
        return MarkCache(self.origin, digests=self.digests, _at=self._at, _references=self._references)

    # References of manifests: blobs, children, subject at a place in `_references`.

    def has_references(self, manifest: int) -> bool:
        return manifest < len(self._at) and self._at[manifest] != 0

    def references(self, manifest: int) -> References[int] | None:
        """Return the references of a manifest that was read."""
        if not self.has_references(manifest):
            return None
        at = self._at[manifest]
        blobs, children, subject = self._references[at : at + 3]
        start = at + 3
        end = start + blobs
        return References(
            tuple(self._references[start:end]),
            tuple(self._references[end : end + children]),
            subject - 1 if subject else None,
        )

    def add_references(self, manifest: int, found: References[RawDigest]) -> None:
        """Keep the references of a manifest whose bytes were read whole."""
        number = self.digests.number
        blobs = [number(raw) for raw in found.blobs]
        children = [number(raw) for raw in found.children]
        subject = 0 if found.subject is None else number(found.subject) + 1
        self.is_changed = True
        _extend(self._at, manifest + 1)
        self._at[manifest] = len(self._references)
        self._references.extend((len(blobs), len(children), subject, *blobs, *children))

    # Repositories.

    def replace(self, name: str, record: Record | None) -> None:
        """Replace the record of a repository, and count what it needs."""
        self.is_changed = True
        _extend(self.counts, len(self.digests))
        counts = self.counts
        old = self.records.pop(name, None)
        if record is not None:
            self.records[name] = record
            for number in record.needs:
                counts[number] += 1
        fresh = self.suspects
        for number in record.needs if record is not None and fresh else ():
            fresh.discard(number)
        for number in old.needs if old is not None else ():
            counts[number] -= 1
            if counts[number] == 0:
                self.suspects.add(number)

    def needed(self, number: int) -> bool:
        return number < len(self.counts) and self.counts[number] > 0

    def forget(self, options: str) -> None:
        """Forget all judgements, which other options led to; names and references are kept."""
        self.options = options
        self.is_changed = True
        self.records.clear()
        self.prefixes.clear()
        self.suspects.clear()
        self.counts = array("I")

    # The file.

    @classmethod
    def load(cls, path: Path, origin: str, options: str) -> MarkCache:
        """Return the cache in a file; an empty one, after a line in the log, if there is none that can be used."""
        try:
            size = path.stat().st_size
            if size > _LARGEST_BYTES:
                raise ValueError(f"it has {size} bytes")
            found = _decode(path.read_bytes())
            if found.origin != origin:
                raise ValueError("it is of another store")
            found.is_changed = False
            if found.options != options:
                found.forget(options)
        except FileNotFoundError:
            _log.info("there is no cache of an earlier collection; everything is read", path=str(path))
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, OverflowError) as error:
            _log.warning(
                "the cache of garbage collection cannot be used; everything is read again",
                path=str(path),
                why=str(error),
            )
        else:
            return found
        return cls(origin, options)

    def save(self, path: Path) -> None:
        """Write the file if there is anything new; a failure costs the next run time, and is logged."""
        if not self.is_changed:
            return
        try:
            data = _encode(self)
            path.parent.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
            try:
                with os.fdopen(fd, "wb") as file:
                    for part in data:
                        file.write(part)
                Path(temporary).replace(path)
                self.is_changed = False
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError as error:
            _log.warning(
                "the cache of garbage collection cannot be written; the next collection reads everything again",
                path=str(path),
                why=str(error),
            )


def _extend(numbers: array[int], size: int) -> None:
    if len(numbers) < size:
        numbers.frombytes(bytes((size - len(numbers)) * numbers.itemsize))


def _encode(cache: MarkCache) -> Iterable[bytes | memoryview]:
    base, order, wide = cache.digests.sections()
    records = list(cache.records.items())
    numbers = array("I")
    times = array("d")
    for _, record in records:
        numbers.extend((len(record.layers), len(record.revisions), len(record.needs)))
        for numbered in (record.layers, record.revisions, record.needs):
            numbers.extend(numbered)
        times.extend((record.until, record.examined))
        times.extend(record.modified)
    text = json.dumps(
        {
            "origin": cache.origin,
            "options": cache.options,
            "wide": {str(number): raw.hex() for number, raw in wide.items()},
            "directories": [
                [path, found.fingerprint, found.components, found.reserved]
                for path, found in cache.directories.items()
            ],
            "records": [
                [name, found.watched, found.prints, found.reserved, found.empty, found.settled, found.tags]
                for name, found in records
            ],
            "prefixes": [
                [name, found.fingerprint, found.listed, found.blobs] for name, found in cache.prefixes.items()
            ],
        },
        separators=(",", ":"),
    ).encode()
    sections: list[bytes | memoryview] = [
        text,
        base,
        *(
            # Of large arrays, no copies.
            memoryview(part).cast("B") if part else b""
            for part in (
                order,
                cache.counts,
                array("I", cache.suspects),
                cache._at,  # noqa: SLF001
                cache._references,  # noqa: SLF001
                numbers,
                times,
            )
        ),
    ]
    sizes = json.dumps([len(section) for section in sections]).encode() + b"\n"
    parts = [_MAGIC, sizes, *sections]
    checksum = hashlib.blake2b(digest_size=_SUM_BYTES)
    for part in parts:
        checksum.update(part)
    return [*parts, checksum.digest()]


def _decode(data: bytes) -> MarkCache:
    """Return the cache of a file.  Raises ValueError and what damaged values raise."""
    if not data.startswith(_MAGIC):
        raise ValueError("it is none of this version")
    view = memoryview(data)
    if hashlib.blake2b(view[:-_SUM_BYTES], digest_size=_SUM_BYTES).digest() != view[-_SUM_BYTES:]:
        raise ValueError("its checksum is wrong")
    end = data.index(b"\n", len(_MAGIC)) + 1
    sections: list[memoryview] = []
    for size in json.loads(data[len(_MAGIC) : end]):
        sections.append(view[end : end + size])
        end += size
    text: dict[str, Any] = json.loads(bytes(sections[0]))
    order, counts, suspects, at, references, numbers = (_array("I", part) for part in sections[2:8])
    wide = {int(number): bytes.fromhex(raw) for number, raw in text["wide"].items()}
    cache = MarkCache(
        text["origin"],
        text["options"],
        DigestTable(bytes(sections[1]), order, wide),
        counts,
        set(suspects),
        {
            path: Directory(found, tuple(components), tuple(reserved))
            for path, found, components, reserved in text["directories"]
        },
        _records(text["records"], numbers, _array("d", sections[8])),
        {name: BlobPrefix(*rest) for name, *rest in text["prefixes"]},
    )
    cache._at = at  # noqa: SLF001
    cache._references = references  # noqa: SLF001
    return cache


def _records(found: list[Any], numbers: array[int], times: array[float]) -> dict[str, Record]:
    records: dict[str, Record] = {}
    place = 0
    when = 0
    same: dict[str, str] = {}
    for name, watched, prints, reserved, empty, settled, tags in found:
        layers, revisions, needs = numbers[place : place + 3]
        first = place + 3
        second = first + layers
        third = second + revisions
        place = third + needs
        records[name] = Record(
            tuple(same.setdefault(path, path) for path in watched),
            tuple(prints),
            tuple(same.setdefault(path, path) for path in reserved),
            numbers[first:second],
            numbers[second:third],
            times[when + 2 : when + 2 + revisions],
            numbers[third:place],
            tuple(empty),
            times[when],
            times[when + 1],
            settled,
            {tag: (at, number) for tag, (at, number) in tags.items()},
        )
        when += 2 + revisions
    return records


def _array(kind: str, part: memoryview) -> array[Any]:
    found = array(kind)
    found.frombytes(part)
    return found
