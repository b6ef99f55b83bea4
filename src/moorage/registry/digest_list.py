"""A list of garbage collection (`collection_state.py`) in memory: packed, and searched by bisection.

A run over a large registry condemns a million digests, which every process has to know: 32 MB in this form (40 MB
with the names of repositories), and several hundred as a set of `Digest`.

Above: `collection_gate.py`; `gc/condemnation.py`.
"""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.types import Digest

__all__ = ["DigestList", "contains"]

_WIDTHS: Final = {"sha256": 32, "sha512": 64}
_NAME_BYTES: Final = 8


def _packed_name(name: str) -> bytes:
    """Return a hash of the name.  With the digest it is unique enough: an entry costs eight bytes more."""
    return blake2b(name.encode(), digest_size=_NAME_BYTES).digest()


class DigestList:
    """The entries of one list, from its content; lines that are none are left out."""

    __slots__ = ("_packed",)

    def __init__(self, data: bytes) -> None:
        found: dict[tuple[str, int], set[bytes]] = {}
        for line in data.splitlines():
            text, _, name = line.decode("ascii", "replace").partition(" ")
            algorithm, _, encoded = text.partition(":")
            try:
                raw = bytes.fromhex(encoded)
            except ValueError:
                continue
            if len(raw) != _WIDTHS.get(algorithm):
                continue
            if name:
                raw += _packed_name(name)
            found.setdefault((algorithm, len(raw)), set()).add(raw)
        self._packed = {kind: b"".join(sorted(raws)) for kind, raws in found.items()}

    @classmethod
    def merged(cls, lists: Iterable[DigestList]) -> DigestList:
        """Return one list of all entries, which is searched once where many lists are searched one by one."""
        found = cls(b"")
        given = [each._packed for each in lists]  # noqa: SLF001  of its own class
        for kind in dict.fromkeys(kind for packed in given for kind in packed):
            width = kind[1]
            parts = [packed[kind] for packed in given if kind in packed]
            merged: list[bytes] = []
            # By the first byte: there is an object for one in 256 of the entries at a time.
            starts = [0] * len(parts)
            for first in range(256):
                raws: set[bytes] = set()
                for place, part in enumerate(parts):
                    start = starts[place]
                    size = len(part)
                    while start < size and part[start] == first:
                        raws.add(part[start : start + width])
                        start += width
                    starts[place] = start
                merged.append(b"".join(sorted(raws)))
            found._packed[kind] = b"".join(merged)
        return found

    def holds(self, algorithm: str, raw: bytes) -> bool:
        """Return whether the list has the entry `raw`: the bytes of a digest, or those and `_packed_name`."""
        width = len(raw)
        packed = self._packed.get((algorithm, width))
        if packed is None:
            return False
        # The lists of a run are parts of one sorted list, so that most are excluded by their ends.
        if raw < packed[:width] or raw > packed[-width:]:
            return False
        index = bisect_left(range(len(packed) // width), raw, key=lambda at: packed[at * width : (at + 1) * width])
        return packed[index * width : (index + 1) * width] == raw


def contains(lists: Sequence[DigestList], name: str, digest: Digest) -> bool:
    """Return whether one of the lists has the digest, as dead everywhere or in the repository `name`."""
    if not lists:
        return False
    raw = bytes.fromhex(digest.hex)
    named = raw + _packed_name(name)
    algorithm = digest.algorithm
    return any(found.holds(algorithm, raw) or found.holds(algorithm, named) for found in lists)
