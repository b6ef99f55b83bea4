"""Hashes of an upload, carried from request to request: nothing is hashed twice.

A hash's inner state is stored as a note beside the bytes, from 1 MiB on; below that a request that reaches the
same process finds the hashes in memory, and any other one reads the few bytes again.

Above: `uploads.py`, `upload_part.py`.  Below: `hashing.py`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from moorage.caches import LRUCache
from moorage.registry import hashing
from moorage.storage.driver import Note

if TYPE_CHECKING:
    from moorage.registry.hashing import Hasher
    from moorage.storage.driver import Key, Uploads, UploadState, Version

    Hashers = dict[str, Hasher]

__all__ = ["NOTED_FROM_BYTES", "UploadHashes", "fresh", "notes_of"]

NOTED_FROM_BYTES: Final = 1 << 20
"""Size from which the state of a hash is stored: it costs two directories and two files."""

_AT_ONCE_BYTES: Final = 64 << 10
_KEPT: Final = 256


class UploadHashes:
    """Hashes of the uploads of one driver.  `threads` hash stored bytes, where that is needed."""

    def __init__(self, uploads: Uploads, *, threads: int) -> None:
        self._uploads = uploads
        self._pool = ThreadPoolExecutor(threads, "hashing")
        self._kept: LRUCache[Key, tuple[int, Version, Hashers]] = LRUCache(_KEPT)

    def restore(self, home: Key, state: UploadState, algorithm: str) -> Hashers:
        """Return hashers that continue at the offset: new ones at 0, else those that were stored or kept.

        `algorithm` is the likely one of the digest.
        """
        found = {} if state.offset else fresh("sha256", algorithm)
        for note in state.notes:
            kind = note.name.split("/")[1] if note.name.count("/") == 2 else ""  # noqa: PLR2004  hashstates/ALG/OFFSET
            if kind in {"sha256", "sha512"}:
                with suppress(KeyError):
                    if (hasher := hashing.restore(kind, note.data, state.offset)) is not None:
                        found[kind] = hasher
        return found or self._take(home, state)

    def _take(self, home: Key, state: UploadState) -> Hashers:
        kept = self._kept.get(home)
        self._kept.drop(home)
        return kept[2] if kept is not None and kept[:2] == (state.offset, state.version) else {}

    def keep(self, home: Key, state: UploadState, hashers: Hashers) -> None:
        """Keep the hashes of a small upload for the next request, if it reaches this process.

        Their states are not stored, so this saves reading the bytes; an upload that another process extends has
        another version.
        """
        if state.version and not state.notes and all(hasher.length == state.offset for hasher in hashers.values()):
            self._kept.put(home, (state.offset, state.version, hashers))

    async def compute(self, home: Key, state: UploadState, algorithm: str) -> Hasher:
        """Hash the stored bytes again: they are few, or the hash state was lost or is of another algorithm.

        Raises UploadMissing, UploadChanged.
        """
        hasher = hashing.new(algorithm)
        loop = asyncio.get_running_loop()
        async with self._uploads.read(home, state) as reader:
            async for piece in reader:
                if len(piece) <= _AT_ONCE_BYTES:
                    hasher.update([piece])
                else:
                    await loop.run_in_executor(self._pool, hasher.update, [piece])
        return hasher

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)


def fresh(*algorithms: str) -> Hashers:
    """Return hashers of no bytes."""
    return {algorithm: hashing.new(algorithm) for algorithm in algorithms}


def notes_of(hashers: Hashers) -> list[Note]:
    """Return the states of the hashers that can be stored."""
    notes = []
    for algorithm, hasher in hashers.items():
        if (exported := hasher.export()) is not None:
            notes.append(Note(f"hashstates/{algorithm}/{hasher.length}", exported))
    return notes
