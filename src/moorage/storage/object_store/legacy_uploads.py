"""Unfinished uploads of CNCF Distribution: their state, as far as it is alike in all object stores.

    HOME/startedat                  when it began
    HOME/data                       its bytes, in the form of its driver
    HOME/hashstates/sha256/OFFSET   the hash of the first OFFSET bytes, if its hash state was kept

Used by `chunk_log.py` and `storage/azure/uploads.py`, which continue such an upload.  CNCF Distribution does not
continue theirs.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from moorage.storage.driver import KeyMissing, Note, UploadMissing, UploadState
from moorage.storage.object_store.helpers import below
from moorage.storage.start_times import started_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from moorage.storage.driver import Key
    from moorage.storage.object_store.helpers import Readable

__all__ = ["legacy_state"]

_LIMIT_BYTES: Final = 1 << 20
_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)


async def legacy_state(store: Readable, home: Key, size: Callable[[], Awaitable[int | None]]) -> UploadState:
    """Return the state of an upload of `size()` bytes, with its hash state as a note.  Raises UploadMissing if it
    has no start time or no bytes (None).
    """
    try:
        started = (await store.get(below(home, "startedat"), limit=_LIMIT_BYTES)).data
    except KeyMissing:
        raise UploadMissing(home) from None
    offset = await size()
    if offset is None:
        raise UploadMissing(home)
    notes: tuple[Note, ...] = ()
    if offset:
        name = f"hashstates/sha256/{offset}"
        with suppress(KeyMissing):
            notes = (Note(name, (await store.get(below(home, name), limit=_LIMIT_BYTES)).data),)
    return UploadState(offset, started_at(started) or _LONG_AGO, notes)
