"""Pause of garbage collection: an object in the store that every collector of the cluster respects.

    absent ──pause──► paused ──resume──► absent

A collector does not begin while it exists, and one that is running ends between two steps and withdraws what it
has announced, so the run after the pause waits once more.  Requests ignore it.  It never expires: content is kept
until an operator resumes.

Source of the key: `layout.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.registry import layout
from moorage.registry.records import read_record
from moorage.storage.driver import ALWAYS, KeyMissing

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.storage.driver import Driver

__all__ = ["PAUSED", "Pause", "pause", "read_pause", "resume"]

PAUSED: Final = "paused"
_REMEDY: Final = "garbage collection is paused until moorage garbage-collect --resume"


class Pause(NamedTuple):
    """The time of the store at which collection was paused, and the host that did it; "" if unknown."""

    at: datetime
    by: str


async def pause(driver: Driver, by: str) -> None:
    """Pause collection in the whole cluster, durably.  Raises StorageError."""
    await driver.write(layout.collection(PAUSED), json.dumps({"version": 1, "by": by}).encode(), ALWAYS)


async def resume(driver: Driver) -> None:
    """Let collectors work again.  No pause is fine.  Raises StorageError."""
    await driver.delete([layout.collection(PAUSED)])


async def read_pause(driver: Driver) -> Pause | None:
    """Return the pause, None without one.  Content of an unknown format is one, too.  Raises StorageError."""
    key = layout.collection(PAUSED)
    try:
        stat = await driver.stat(key)
    except KeyMissing:
        return None
    fields = await read_record(driver, key, remedy=_REMEDY)
    return None if fields is None else Pause(stat.modified, str(fields.get("by", "")))
