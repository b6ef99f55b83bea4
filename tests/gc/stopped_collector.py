"""A collector process that stops itself just before its first removal of bytes; for test_stopped.py.

Arguments: the data directory, and the seconds of the deadline.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gc.running import collection_of
from tests.registry.instrumented import InstrumentedDriver

from moorage.gc.guard import process_deadline
from moorage.gc.run import collect
from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.storage.driver import Key, Stat


class Stopping(InstrumentedDriver):
    async def remove_unchanged(self, objects: Sequence[Stat]) -> Sequence[Key]:
        os.kill(os.getpid(), signal.SIGSTOP)
        return await super().remove_unchanged(objects)


async def main() -> None:
    deadline_s = float(sys.argv[2])
    driver = Stopping(FilesystemDriver(Path(sys.argv[1])))
    await collect(collection_of(driver, guard=lambda _: process_deadline(deadline_s)))


asyncio.run(main())
