"""Looks at an object store that every kind of it takes alike, made of its own primitive calls.

Above: `storage/s3/objects.py`, `storage/gcs/objects.py`, `azure/`.  Beside: `interface.py`, which says what the
calls promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from moorage.storage.driver import Key, KeyMissing, ObjectTooLarge, RangeOutside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Content, Version

__all__ = ["Readable", "look_for_nothing", "require_start", "version_if_holding"]

_NOBODYS: Final = Key("docker/registry/v2/probe")
_PROBE_BYTES: Final = 1 << 20


class Readable(Protocol):
    """The one call that is needed."""

    async def get(self, key: Key, *, limit: int) -> Content: ...


def require_start(key: Key, start: int, size: int) -> None:
    """Raises RangeOutside where a reading would begin past the object's end; at the end nothing is read."""
    if start > size:
        raise RangeOutside(f"{key}: {start} is past its {size} bytes")


async def version_if_holding(store: Readable, key: Key, data: Sequence[bytes]) -> Version | None:
    """The version of the object if it holds exactly `data`: then a write whose answer was lost has been done."""
    try:
        found = await store.get(key, limit=sum(map(len, data)))
    except (KeyMissing, ObjectTooLarge):
        return None
    return found.version if found.data == b"".join(data) else None


async def look_for_nothing(store: Readable) -> None:
    """GET of an object that nobody makes: the answer tells of the place, the credentials and the clocks.

    Raises StorageUnavailable.
    """
    try:
        await store.get(_NOBODYS, limit=_PROBE_BYTES)
    except (KeyMissing, ObjectTooLarge):
        return
