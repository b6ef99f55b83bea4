"""Stores to copy between, filled and seen through the registry as clients see it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.http.client import Client
from tests.s3 import a_bucket

from moorage.config.model import Settings
from moorage.config.sections.storage import Delete, Redirect, Storage
from moorage.copy.repositories import Copier, CopyOptions
from moorage.http.app import create_app
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from moorage.copy.progress import Tally
    from moorage.storage.driver import Driver

__all__ = ["Recorder", "copied", "opened", "serving"]

# Without undo no history of tags is written, which appears in the store some time after a push.
_SETTINGS = Settings(storage=Storage(delete=Delete(enabled=True, undo=0), redirect=Redirect(disable=True)))


@dataclass
class Recorder:
    """See `copy.progress.CopyReporter`."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    planned_bytes: int = 0
    moved_bytes: int = 0

    def planned(self, size: int) -> None:
        self.planned_bytes += size

    def moved(self, size: int, *, copied: bool) -> None:
        del copied
        self.moved_bytes += size

    def settled(self, tally: Tally) -> None:
        del tally

    def problem(self, where: str, text: str) -> None:
        self.problems.append((where, text))

    def note(self, where: str, text: str) -> None:
        self.notes.append((where, text))


async def copied(
    source: Driver, target: Driver, options: CopyOptions | None = None, recorder: Recorder | None = None
) -> Tally:
    """Run the copier; without `recorder` it must report no problem."""
    reporter = Recorder() if recorder is None else recorder
    tally = await Copier(source, target, options or CopyOptions(), reporter).run()
    assert tally.problems == len(reporter.problems)
    if recorder is None:
        assert not reporter.problems
    return tally


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[Driver]:
    """An empty store: `memory`, `filesystem`, `s3`, or `objects`, what every object store has in common."""
    if kind == "objects":
        yield ObjectDriver.with_chunk_log(MemoryObjects(Bucket()))
        return
    if kind == "s3":
        with a_bucket() as bucket:
            driver = bucket.driver()
            try:
                yield driver
            finally:
                await driver.close()
        return
    local = MemoryDriver() if kind == "memory" else FilesystemDriver(folder)
    try:
        yield local
    finally:
        await local.close()


def serving(driver: Driver) -> Client:
    """What clients see of a store; as fresh as a process that has just been started."""
    return Client(create_app(make_registry(driver, _SETTINGS, b"secret"), http_options(_SETTINGS)))
