"""Preconditions of a run.  Each raises CollectionRefused, with cause and remedy, before anything is removed.

Traces of a foreign writer.  CNCF Distribution keeps descriptors of blobs in memory for ever, and knows no markers:
beside it a collection loses data.  Recent traces that it leaves and Moorage does not:

    _uploads/UUID                       with a random UUID (version 4): 2.8 and 3.0; Moorage's are of version 7
    _uploads/UUID/hashstates/sha256/0   written at the start of an upload, by every version
    scheduler-state.json                beside `docker/`, by a pull-through cache

A writer that has left none of them in the last day is not recognized: `foreignwriters` declares it.

Source: docs/reference/storage-layout.md, sections 1 and 2.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from moorage.gc.errors import CollectionRefused
from moorage.registry import layout
from moorage.registry.collection_pause import read_pause
from moorage.registry.collection_state import ENDED, PROBE, RUNNING, StateName, list_state
from moorage.registry.lease import foreign_protocol
from moorage.registry.nodes import PROTOCOL, live_nodes
from moorage.storage.driver import Key, StorageError, UploadMissing

if TYPE_CHECKING:
    from moorage.gc.markers import Markers
    from moorage.storage.driver import Driver, Stat

__all__ = [
    "CLOCK_S",
    "check_clock",
    "check_foreign_writers",
    "check_listings",
    "check_nodes",
    "check_not_paused",
    "check_store",
]

CLOCK_S: Final = 300.0
"""Difference of the store's clock from this node's that is accepted: times of uploads and leases are of nodes."""
_LISTINGS: Final = 3
_RECENT: Final = timedelta(days=1)
_SCHEDULER: Final = Key("scheduler-state.json")
_PURGING: Final = "upload-purging"
_VERSION_7: Final = 7
_VERSION_4: Final = 4


async def check_store(driver: Driver) -> None:
    """Check that the store can be read."""
    try:
        await driver.probe()
    except StorageError as error:
        raise CollectionRefused(f"the store cannot be read; nothing was removed: {error}") from error


async def check_listings(markers: Markers) -> None:
    """Check that listings show what was written a moment ago, and nothing that was removed.

    A store that is late only at times passes: a check finds what does not hold, and proves nothing.
    """
    for wanted in (True, False):
        name = StateName(PROBE, markers.token)
        await (markers.write_probe() if wanted else markers.remove([name]))
        for _ in range(_LISTINGS):
            found = await markers.list_once()
            if (name in found) != wanted or StateName(RUNNING, markers.token) not in found:
                late = "does not have what was written" if wanted else "still has what was removed"
                raise CollectionRefused(
                    f"a listing of the store {late} a moment ago: its listings are only eventually consistent, as "
                    "those of OpenStack Swift: a layer that an image needs may look as if nothing needed it; use "
                    "--dry-run only (nothing was removed)"
                )


async def check_not_paused(driver: Driver) -> None:
    paused = await read_pause(driver)
    if paused is not None:
        by = f" by {paused.by}" if paused.by else ""
        raise CollectionRefused(
            f"garbage collection is paused since {paused.at:%Y-%m-%d %H:%M} UTC{by}; "
            "moorage garbage-collect --resume permits it again (nothing was removed)"
        )


async def check_nodes(driver: Driver, *, now: datetime) -> None:
    """Check that no running node is of a release whose requests do not observe the markers of this one."""
    for node in await live_nodes(driver, now=now):
        if node.protocol != PROTOCOL:
            raise CollectionRefused(
                f"node {node.instance} runs Moorage {node.version}, which does not know this release's garbage "
                "collection; update every node first (nothing was removed)"
            )
    protocol = await foreign_protocol(driver, _PURGING, now=now)
    if protocol is not None:
        raise CollectionRefused(
            f"{layout.lease(_PURGING)} is held by a node of another release of Moorage, which does not know this "
            "release's garbage collection; update every node, and wait until the lease has expired or remove it "
            "(nothing was removed)"
        )


async def check_clock(markers: Markers, driver: Driver, started: Stat, *, now: datetime) -> None:
    """Check the store's clock: `started` was written a moment ago, `now` is the time of this node."""
    difference_s = (started.modified - now).total_seconds()
    if abs(difference_s) > CLOCK_S:
        raise CollectionRefused(
            f"the clock of the store differs by {difference_s:.0f} seconds from this node's; the age of content "
            "cannot be judged until both are right (nothing was removed)"
        )
    for name in await list_state(driver):
        if name.kind != ENDED:
            continue
        ended = await markers.modified(name)
        if ended is not None and ended > started.modified + timedelta(seconds=1):
            raise CollectionRefused(
                f"the clock of the store was set back: the last run ended at {ended:%Y-%m-%d %H:%M:%S} UTC by it, "
                f"and now it is {started.modified:%Y-%m-%d %H:%M:%S}; correct the clock, or remove "
                f"{layout.collection(str(name))} if it was ahead then (nothing was removed)"
            )


async def check_foreign_writers(driver: Driver, *, now: datetime) -> None:
    """Check that CNCF Distribution has left no recent trace.  Lists all unfinished uploads."""
    recent = now - _RECENT
    found = await driver.find(_SCHEDULER)
    if found is not None and found.modified > recent:
        raise _foreign(f"{_SCHEDULER} was written at {found.modified:%Y-%m-%d %H:%M} UTC")
    async for home in driver.uploads.abandoned(layout.REPOSITORIES, now + _RECENT):
        if await _is_foreign(driver, home, recent):
            raise _foreign(f"the unfinished upload {home} is one of CNCF Distribution")


async def _is_foreign(driver: Driver, home: Key, recent: datetime) -> bool:
    try:
        identity = uuid.UUID(home.rpartition("/")[2])
    except ValueError:
        return False
    if identity.version == _VERSION_7:
        # Compared as a number: a made-up UUID may be of the year 10889, which is no date.
        if (identity.int >> 80) / 1000 <= recent.timestamp():
            return False
        return await driver.find(layout.below(home, "hashstates/sha256/0")) is not None
    if identity.version != _VERSION_4:
        return False
    try:
        return (await driver.uploads.state(home)).started > recent
    except UploadMissing:
        return False


def _foreign(trace: str) -> CollectionRefused:
    return CollectionRefused(
        f"another registry writes to this store: {trace}. Stop it, or set "
        "storage.maintenance.garbagecollection.foreignwriters to have dry runs only (nothing was removed)"
    )
