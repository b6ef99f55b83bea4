"""Helpers shared by all object stores, built on their primitive operations.

Above: the modules of `storage/s3/`, `storage/gcs/` and `storage/azure/`.  Beside: `interface.py`, the interface of
a store.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, Protocol

from moorage.concurrency import map_bounded
from moorage.storage.driver import Conflict, Key, KeyMissing, ObjectTooLarge, RangeOutside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.storage.driver import Content, Stat, Version
    from moorage.storage.object_store.errors import RequestFailed

__all__ = [
    "Readable",
    "below",
    "check_start",
    "delete_each",
    "find",
    "new_session",
    "probe",
    "refused_put",
    "remove_each",
    "slices",
    "stat_from",
]

_AT_ONCE: Final = 16
_PROBED: Final = Key("docker/registry/v2/probe")
_PROBE_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 20


class Readable(Protocol):
    """A store of which small objects are read."""

    async def get(self, key: Key, *, limit: int) -> Content: ...


class _Sized(Protocol):
    async def head(self, key: Key) -> Stat: ...


def below(home: Key, name: str) -> Key:
    """Return the key of an object of an upload."""
    return Key(f"{home}/{name}")


def new_session() -> str:
    """Return 64 random bits in hexadecimal: part of all names that one request writes, so no other uses them."""
    return secrets.token_hex(8)


async def delete_each(keys: Sequence[Key], delete: Callable[[Key], Awaitable[None]]) -> None:
    """Delete the first object alone, since the others may depend on it; then several at a time."""
    for start in range(1 - _AT_ONCE, len(keys), _AT_ONCE):
        part = keys[max(start, 0) : start + _AT_ONCE]
        results = await asyncio.gather(*map(delete, part), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


async def remove_each(objects: Sequence[Stat], remove: Callable[[Stat], Awaitable[bool]]) -> Sequence[Key]:
    """Implement `remove_unchanged` by `remove`, which returns False for an object that has changed."""
    removed = await map_bounded(objects, remove, limit=_AT_ONCE)
    return [known.key for known, done in zip(objects, removed, strict=True) if not done]


async def find(store: _Sized, key: Key) -> Stat | None:
    """Return what `head` does, or None if there is no object."""
    try:
        return await store.head(key)
    except KeyMissing:
        return None


def check_start(key: Key, start: int, size: int) -> None:
    """Raises RangeOutside if a read from `start` begins past the object's end; at the end nothing is read."""
    if start > size:
        raise RangeOutside(f"{key}: {start} is past its {size} bytes")


async def stat_from(store: _Sized, key: Key, start: int) -> Stat:
    """Return size and time of an object of which an empty range at `start` is read.

    Raises KeyMissing, RangeOutside.
    """
    stat = await store.head(key)
    check_start(key, start, stat.size)
    return stat


async def refused_put(store: Readable, key: Key, data: Sequence[bytes], error: RequestFailed) -> Version:
    """Return the version of a conditional put that the store refused because an earlier attempt, whose response
    was lost, had carried it out: the object then holds exactly `data`.  Raises Conflict.
    """
    if error.doubtful:
        try:
            content = await store.get(key, limit=sum(map(len, data)))
        except (KeyMissing, ObjectTooLarge):
            pass
        else:
            if content.data == b"".join(data):
                return content.version
    raise Conflict(f"{key}: {error.failure.code or error}") from error


async def probe(store: Readable) -> None:
    """Read an object that does not exist: checks endpoint, bucket, credentials and clocks with one request.

    Raises StorageUnavailable.
    """
    try:
        await store.get(_PROBED, limit=_PROBE_BYTES)
    except (KeyMissing, ObjectTooLarge):
        return


def slices(data: bytes) -> Sequence[bytes]:
    """Return `data` in pieces as a `driver.Reader` gives them: at most 1 MiB each."""
    if len(data) <= _PIECE_BYTES:
        return [data] if data else []
    return [data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES)]
