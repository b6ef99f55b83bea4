"""Latency of a serving registry beside a collection that marks a store of the same file system, and without it.

Both sides are Moorage.  The collection is a dry run over another store, repeated as long as the load lasts, on the
cores of the load: it competes for the disk and the caches of the kernel, as it does on a node with free cores.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from bench import load, servers
from bench.rows.base import Bench, Metric, Row
from bench.rows.small import CONNECTIONS, MANIFEST_GET, fill
from bench.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.servers import Server

__all__ = ["ROWS"]


def _repositories(bench: Bench) -> int:
    return bench.pick(200, 2000)


def _title(bench: Bench) -> str:
    return f"GET manifest by tag beside a collection that marks {_repositories(bench):,} repositories"


def _prepare(bench: Bench, server: Server) -> None:
    fill(bench, server)
    store = _store(bench)
    if not store.exists():
        Volume(_repositories(bench)).write(store)


def _store(bench: Bench) -> Path:
    return bench.scratch / "beside-store"


def _measure(bench: Bench, server: Server) -> Mapping[str, float]:
    alone = _load(bench, server)
    with _marking(bench) as marks:
        beside = _load(bench, server)
    return {
        "alone_p99_ms": alone.latency["p99_ms"],
        "p99_ms": beside.latency["p99_ms"],
        "times": beside.latency["p99_ms"] / alone.latency["p99_ms"],
        "requests": beside.per_s,
        "marks": len(marks),
    }


def _load(bench: Bench, server: Server) -> load.Load:
    return load.run(
        server.port, MANIFEST_GET, connections=CONNECTIONS, seconds=bench.seconds, cpus=bench.load_cpus
    )


@contextmanager
def _marking(bench: Bench) -> Iterator[list[int]]:
    """Mark over and over; yield the exit statuses, complete at the end.  Raises ServerFailed."""
    config = bench.scratch / "beside.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(_store(bench))}},
                "http": {"addr": "127.0.0.1:0", "secret": "the benchmark's"},
            }
        )
    )
    program = str(Path(sys.executable).with_name("moorage"))
    command = [program, "garbage-collect", "--dry-run", "--delete-untagged", "--quiet", str(config)]
    done: list[int] = []
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            done.append(subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        ended.set()
        thread.join()
    if any(done):
        raise servers.ServerFailed(f"moorage garbage-collect --dry-run ended with {max(done)}")


ROWS: Final = (
    Row(
        "collection-beside",
        _title,
        (
            Metric("alone_p99_ms", "ms without it (99th percentile)", "lower"),
            Metric("p99_ms", "ms beside it (99th percentile)", "lower"),
            Metric("times", "times", "lower", 2, "value"),
            Metric("requests", "requests/s beside it", "higher"),
            Metric("marks", "marks", "higher"),
        ),
        _measure,
        _prepare,
        sides=(servers.MOORAGE,),
    ),
)
