"""Process that collects garbage again and again, with short times, until it is killed or gets SIGTERM.

    python -m tests.gc.soak.collecting STORE UPLOAD_AGE_S

STORE is the text of `stores.Store.as_json`.  Each run is a line of JSON on the standard output
(`moorage.gc.report`).  Times that are no settings, and that bound what a killed process may still do, are
shortened to seconds.  In a directory the DELETEs are system calls of the process itself, and none can arrive
after it is dead; in a bucket some do, within the shortened quarantine, which the soak checks.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.gc.soak.stores import LINKS_S, opened

import moorage.gc.condemnation
import moorage.gc.run
import moorage.gc.sweep
from moorage.gc.cache import MarkCache
from moorage.gc.errors import CollectionRefused
from moorage.gc.mark import Marker
from moorage.gc.options import CollectionOptions
from moorage.gc.run import Collection, collect
from moorage.registry import collection_state
from moorage.storage.driver import StorageError

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.storage.driver import Driver

__all__ = ["GRACE_S", "OPTIONS", "QUARANTINE_S", "RENEW_S", "UPLOAD_AGE_S", "WAIT_S", "collect_once"]

GRACE_S: Final = 2.0
WAIT_S: Final = 2.0
RENEW_S: Final = 0.5
"""Of server and collector, set by the module that each Python imports first: a run then takes some seconds."""
UPLOAD_AGE_S: Final = 60.0
QUARANTINE_S: Final = 2.0
OPTIONS: Final = CollectionOptions(
    delete_untagged=True, grace_s=GRACE_S, undo_s=0, wait_s=WAIT_S, upload_age_s=UPLOAD_AGE_S, dry_run=False
)
_SHORT: Final = {"_TERM_S": 2.0, "QUARANTINE_S": QUARANTINE_S, "GUARD_S": 10.0}
_MODULES: Final = {
    moorage.gc.run: ("_TERM_S", "QUARANTINE_S"),
    moorage.gc.condemnation: ("QUARANTINE_S", "GUARD_S"),
}
ROUND_OBJECTS: Final = 40
"""Most runs have several rounds."""
_REFUSED_PAUSE_S: Final = 0.3
"""Between attempts while another collector has the lease."""


def shorten() -> None:
    """Make the successor of a killed collector wait for seconds.  Raises AttributeError if a name has changed."""
    for module, names in _MODULES.items():
        for name in names:
            getattr(module, name)
            setattr(module, name, _SHORT[name])
    for name, part in (("GUARD_S", 1.0), ("DEADLINE_S", 0.5), ("LOOK_S", 0.1), ("_LATE_S", 0.1)):
        getattr(moorage.gc.sweep, name)
        setattr(moorage.gc.sweep, name, _SHORT["GUARD_S"] * part)
    assert float(collection_state.RENEW_S) == RENEW_S, "the module that shortens RENEW_S was not imported"


async def collect_once(driver: Driver, cache: MarkCache, options: CollectionOptions) -> str:
    """Run one collection; return its report as JSON, or the reason for which there is none."""
    marker = partial(_marker, driver, cache, options)
    try:
        report = await collect(
            Collection(
                driver=driver,
                options=options,
                marker=marker,
                owner=f"soak {os.getpid()}",
                links_s=LINKS_S,
                round_objects=ROUND_OBJECTS,
            )
        )
    except CollectionRefused as refused:
        return json.dumps({"refused": str(refused)})
    except StorageError as error:
        return json.dumps({"failed": str(error)})
    return json.dumps(report.as_json())


def _marker(driver: Driver, cache: MarkCache, options: CollectionOptions, now: datetime) -> Marker:
    return Marker(driver, options, now=now, cache=cache)


async def _collect(store: str, upload_age_s: float) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    cache = MarkCache()  # of all runs, as the file of the housekeeper is
    driver = opened(store)
    options = replace(OPTIONS, upload_age_s=upload_age_s)
    try:
        while not ended.is_set():
            line = await collect_once(driver, cache, options)
            print(line, flush=True)
            await asyncio.sleep(_REFUSED_PAUSE_S if "refused" in json.loads(line) else 0.05)
    finally:
        await driver.close()


if __name__ == "__main__":
    shorten()
    asyncio.run(_collect(sys.argv[1], float(sys.argv[2])))
