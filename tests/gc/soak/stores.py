"""Stores of the soak: a directory, or a bucket in a process of moto.

`Store.as_json` is what a collector gets on its command line, and `opened` the driver that it makes of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.gc.soak.moto_process import COLLECTOR
from tests.live import ROOT
from tests.s3 import Bucket

from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moorage.storage.driver import Driver

__all__ = ["STORES", "DirectoryStore", "S3Store", "Store", "opened", "opened_store", "removals_after"]

STORES: Final = ("filesystem", "s3")
_STOP_LIMIT_S: Final = 10.0


class Store(Protocol):
    """A store, the servers and collectors over it, and their times.

    A tag of a push that took less than `quick_s` must not be refused.  `nodes` servers have `workers` each.
    """

    nodes: int
    workers: int
    collectors: int
    removals_take_time: bool
    quick_s: float

    @property
    def settings(self) -> dict[str, Any]:
        """Settings below `storage`."""
        ...

    def as_json(self) -> str: ...

    def keys(self) -> list[str]:
        """Every object."""
        ...

    def removals(self, event: str) -> list[tuple[float, int]]:
        """Return the times at which removals of collectors "began" or were "done", and the process ids.

        None for a store in which nothing lies between the two.
        """
        ...


@dataclass
class DirectoryStore:
    """A directory.  A removal is a system call of the collector, so none is carried out after its death."""

    root: Path
    nodes: int = 1
    workers: int = 2
    collectors: int = 1
    removals_take_time: bool = False
    quick_s: float = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def as_json(self) -> str:
        return json.dumps({"root": str(self.root)})

    def keys(self) -> list[str]:
        return [str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()]

    def removals(self, event: str) -> list[tuple[float, int]]:
        del event
        return []


@dataclass
class S3Store:
    """A bucket.  Its times have whole seconds, so a wait of two seconds may be one of a second."""

    bucket: Bucket
    log: Path
    nodes: int = 2
    workers: int = 1
    collectors: int = 2
    removals_take_time: bool = True
    quick_s: float = 0.5

    @property
    def settings(self) -> dict[str, Any]:
        return {"filesystem": None, "s3": self.bucket.settings(), "cache": {"links": f"{LINKS_S * 1000:.0f}ms"}}

    def as_json(self) -> str:
        return json.dumps({"bucket": asdict(self.bucket)})

    def keys(self) -> list[str]:
        unfinished = [f"{key} (multipart upload)" for key in self.bucket.in_progress()]
        return [*self.bucket.keys(), *unfinished]

    def removals(self, event: str) -> list[tuple[float, int]]:
        lines = (line.split() for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return [(float(at), int(agent.removeprefix(COLLECTOR))) for found, at, agent in lines if found == event]


LINKS_S: Final = 0.4
"""Time for which nodes remember links in a bucket, and a deletion takes."""


def opened(described: str) -> Driver:
    """Return the driver for the text of `Store.as_json`, in a collector."""
    found = json.loads(described)
    if "bucket" in found:
        return Bucket(**found["bucket"]).driver(useragent=f"{COLLECTOR}{os.getpid()}")
    return FilesystemDriver(found["root"])


@contextmanager
def opened_store(kind: str, folder: Path, seed: int) -> Iterator[Store]:
    """Context with a new store, one of `STORES`."""
    if kind == "filesystem":
        yield DirectoryStore(folder / "data")
        return
    log = folder / "removals.log"
    log.touch()
    command = [sys.executable, "-m", "tests.gc.soak.moto_process", str(log), str(seed)]
    with (
        (folder / "moto.log").open("wb") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port, f"moto did not start:\n{(folder / 'moto.log').read_text()}"
            bucket = Bucket(f"http://127.0.0.1:{port}", "soak", "AK", "SK", "us-east-1")
            bucket.client.create_bucket(Bucket=bucket.name)
            yield S3Store(bucket, log)
        finally:
            process.terminate()
            process.wait(_STOP_LIMIT_S)


def removals_after(store: Store, deaths: dict[int, float]) -> list[float]:
    """Return the seconds after which removals of dead collectors were carried out; `deaths` by process id."""
    return [at - deaths[pid] for at, pid in store.removals("done") if pid in deaths and at > deaths[pid]]
