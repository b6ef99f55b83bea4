"""Process that collects garbage again and again, with short times, until it is killed or gets SIGTERM.

    python -m tests.gc.soak.collecting ROOT

Each run is a line of JSON on the standard output (`moorage.gc.report`).  Times that are no settings, and that
bound what a killed process may still do, are shortened to seconds: here the DELETEs are system calls of the
process itself, and none can arrive after it is dead.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import moorage.gc.condemnation
import moorage.gc.run
import moorage.gc.sweep
from moorage.gc.cache import MarkCache
from moorage.gc.errors import CollectionRefused
from moorage.gc.mark import Marker
from moorage.gc.options import CollectionOptions
from moorage.gc.run import Collection, collect
from moorage.registry import collection_state
from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["GRACE_S", "OPTIONS", "RENEW_S", "WAIT_S", "collect_once"]

GRACE_S: Final = 2.0
WAIT_S: Final = 2.0
RENEW_S: Final = 0.5
"""Of server and collector, set by the module that each Python imports first: a run then takes some seconds."""
OPTIONS: Final = CollectionOptions(
    delete_untagged=True, grace_s=GRACE_S, undo_s=0, wait_s=WAIT_S, upload_age_s=60, dry_run=False
)
_SHORT: Final = {"_TERM_S": 2.0, "QUARANTINE_S": 2.0, "GUARD_S": 10.0}
_MODULES: Final = {
    moorage.gc.run: ("_TERM_S", "QUARANTINE_S"),
    moorage.gc.condemnation: ("QUARANTINE_S", "GUARD_S"),
}
ROUND_OBJECTS: Final = 40
"""Most runs have several rounds."""


def shorten() -> None:
    """Make the successor of a killed collector wait for seconds.  Raises AttributeError if a name has changed."""
    for module, names in _MODULES.items():
        for name in names:
            getattr(module, name)
            setattr(module, name, _SHORT[name])
    for name, part in (("GUARD_S", 1.0), ("DEADLINE_S", 0.5), ("LOOK_S", 0.1)):
        getattr(moorage.gc.sweep, name)
        setattr(moorage.gc.sweep, name, _SHORT["GUARD_S"] * part)
    assert float(collection_state.RENEW_S) == RENEW_S, "the module that shortens RENEW_S was not imported"


async def collect_once(root: Path, cache: MarkCache) -> str:
    """Run one collection; return its report as JSON, or the reason for which there is none."""
    driver = FilesystemDriver(root)
    try:
        marker = partial(_marker, driver, cache)
        report = await collect(
            Collection(
                driver=driver,
                options=OPTIONS,
                marker=marker,
                owner=f"soak {os.getpid()}",
                round_objects=ROUND_OBJECTS,
            )
        )
    except CollectionRefused as refused:
        return json.dumps({"refused": str(refused)})
    finally:
        await driver.close()
    return json.dumps(report.as_json())


def _marker(driver: FilesystemDriver, cache: MarkCache, now: datetime) -> Marker:
    return Marker(driver, OPTIONS, now=now, cache=cache)


async def _collect(root: Path) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    cache = MarkCache()  # of all runs, as the file of the housekeeper is
    while not ended.is_set():
        print(await collect_once(root, cache), flush=True)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    shorten()
    asyncio.run(_collect(Path(sys.argv[1])))
