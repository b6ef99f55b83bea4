"""Whole objects, streamed or hashed.

Above: `blob_store.py`.  Below: `hashing.py`, `storage/driver.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from moorage.registry import hashing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from moorage.storage.driver import Driver, Key

__all__ = ["hashed", "pieces"]

_PIECE_BYTES: Final = 1 << 20


async def pieces(driver: Driver, key: Key) -> AsyncIterator[list[bytes]]:
    """Yield the bytes of an object, about 1 MiB at a time.  Raises KeyMissing, StorageUnavailable."""
    async with driver.open(key) as reader:
        batch: list[bytes] = []
        size = 0
        async for piece in reader:
            batch.append(piece)
            size += len(piece)
            if size >= _PIECE_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


async def hashed(
    driver: Driver, key: Key, algorithm: str, progress: Callable[[int], None] | None = None
) -> tuple[str, int]:
    """Return the hex of the digest of an object, and its length.  Raises KeyMissing, StorageUnavailable."""
    hasher = hashing.new(algorithm)
    async for batch in pieces(driver, key):
        await asyncio.to_thread(hasher.update, batch)
        if progress is not None:
            progress(sum(map(len, batch)))
    return hasher.hexdigest(), hasher.length
