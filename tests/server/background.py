"""`tests.server.serving` with background jobs: `log.fields.jobs` names them, separated by spaces.

python -m tests.server.background CONFIG
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.server.serving import service

from moorage.server.housekeeper.jobs import Job, JobContext

if TYPE_CHECKING:
    from moorage.config.model import Settings


@dataclass(frozen=True)
class Steady(Job):
    """Runs until it is cancelled, and notes that."""

    name: ClassVar[str] = "steady"

    home: Path

    def note(self, text: str) -> None:
        with (self.home / "seen").open("a") as file:
            file.write(f"{self.name} {text}\n")

    async def run(self, context: JobContext) -> None:
        context.on_reload = lambda: self.note("reloaded")
        self.note("started")
        try:
            await asyncio.Event().wait()
        finally:
            self.note("cancelled")


class Crashing(Steady):
    """Fails until the file `calm` exists."""

    name: ClassVar[str] = "crashing"

    async def run(self, context: JobContext) -> None:
        if not (self.home / "calm").exists():
            self.note("crashed")
            raise RuntimeError("broken on purpose")
        await super().run(context)


class Stubborn(Steady):
    """Cannot be cancelled, as a thread that waits for a dead file server."""

    name: ClassVar[str] = "stubborn"

    async def run(self, context: JobContext) -> None:
        self.note("started")
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class Blocking(Steady):
    """Blocks the event loop."""

    name: ClassVar[str] = "blocking"

    async def run(self, context: JobContext) -> None:
        self.note("started")
        os.read(os.pipe()[0], 1)


JOBS: dict[str, type[Steady]] = {each.name: each for each in (Steady, Crashing, Stubborn, Blocking)}


def _main() -> int:
    from moorage.config.load import load
    from moorage.server import run

    path = Path(sys.argv[1])

    def jobs(settings: Settings, instance: str) -> list[Job]:
        del instance
        return [JOBS[name](path.parent) for name in str(settings.log.fields.get("jobs", "")).split()]

    return run(load(path, os.environ), replace(service(path.parent), jobs=jobs))


if __name__ == "__main__":
    sys.exit(_main())
