"""A list of digests of garbage collection (`collection_state.py`) in memory: packed, and searched by bisection.

A run over a large registry condemns a million digests, which every process has to know: 32 MB in this form, and
several hundred as a set of `Digest`.

Above: `collection_gate.py`.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.types import Digest

__all__ = ["DigestList", "contains"]

_WIDTHS: Final = {"sha256": 32, "sha512": 64}


class DigestList:
    """The digests of one list, from its content; lines that are no digest are left out."""

    __slots__ = ("_packed",)

    def __init__(self, data: bytes) -> None:
        found: dict[str, set[bytes]] = {}
        for line in data.split():
            algorithm, _, encoded = line.decode("ascii", "replace").partition(":")
            try:
                raw = bytes.fromhex(encoded)
            except ValueError:
                continue
            if len(raw) == _WIDTHS.get(algorithm):
                found.setdefault(algorithm, set()).add(raw)
        self._packed = {algorithm: b"".join(sorted(raws)) for algorithm, raws in found.items()}

    def holds(self, algorithm: str, raw: bytes) -> bool:
        """Return whether the list has the digest with the bytes `raw`."""
        packed = self._packed.get(algorithm)
        if packed is None:
            return False
        width = len(raw)
        # The lists of a run are parts of one sorted list, so that most are excluded by their ends.
        if raw < packed[:width] or raw > packed[-width:]:
            return False
        index = bisect_left(range(len(packed) // width), raw, key=lambda at: packed[at * width : (at + 1) * width])
        return packed[index * width : (index + 1) * width] == raw


def contains(lists: Sequence[DigestList], digest: Digest) -> bool:
    """Return whether one of the lists has the digest."""
    if not lists:
        return False
    raw = bytes.fromhex(digest.hex)
    return any(found.holds(digest.algorithm, raw) for found in lists)
