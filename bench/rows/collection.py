"""Garbage collection beside the peers' `garbage-collect`, each on its own copy of the same store.

No registry is running: the peers ask for that.  With `--delete-untagged`: manifests without a tag go, with their
configs and what only they name, and blobs that nothing links.  All has to be found, so the bytes that are freed
are a check of the row: they must be the same, or less only by what a note explains.

Peak memory is that of the process, by wait4(2).  The copies are hard links: no program writes to a file in place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from bench import servers
from bench.rows.base import Bench, Metric, Row
from bench.volume import Volume, blob_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROWS"]

_MIB: Final = 1 << 20


def _volume(bench: Bench) -> Volume:
    repositories = bench.pick(50, 1000, 20_000)
    return Volume(repositories, dead=repositories * 5)


def _title(bench: Bench) -> str:
    volume = _volume(bench)
    manifests, links = volume.repositories * volume.images, volume.repositories * volume.links
    return (
        f"garbage collection with --delete-untagged: {volume.repositories:,} repositories, "
        f"{manifests:,} manifests, {links:,} blob links"
    )


def _collect(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    template = bench.scratch / "collection-template"
    if not template.exists():
        _volume(bench).write(template)
    root.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--link", template, root], check=True)
    before = blob_bytes(root)
    config = root.with_name(f"{root.name}.yml")
    config.write_text(yaml.safe_dump(_settings(side, root)))
    try:
        seconds, cpu_s, peak_bytes = _run(bench, side, config)
        after = blob_bytes(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return {
        "seconds": seconds,
        "cpu_s": cpu_s,
        "memory_mib": peak_bytes / _MIB,
        "blobs": before[0] - after[0],
        "freed_mib": (before[1] - after[1]) / _MIB,
    }


def _settings(side: str, root: Path) -> dict[str, Any]:
    storage: dict[str, Any] = {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}}
    if side == servers.MOORAGE:
        # The wait is for pushes beside the collection, of which there are none here.
        storage["delete"]["undo"] = "0s"
        storage["maintenance"] = {"garbagecollection": {"wait": "0s", "grace": "1h"}}
    return {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": storage,
        "http": {"addr": "127.0.0.1:0", "secret": "the benchmark's"},
    }


def _run(bench: Bench, side: str, config: Path) -> tuple[float, float, int]:
    """Return wall seconds, CPU seconds and the peak of the resident memory.  Raises ServerFailed."""
    program = servers.PROGRAMS.command(side, config)[0]
    if side == servers.MOORAGE:
        program = str(Path(sys.executable).with_name("moorage"))
    pin = ["taskset", "--cpu-list", str(bench.server_cpu)]
    log = config.with_suffix(".log")
    os.sync()
    with log.open("wb") as sink:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*pin, program, "garbage-collect", "--delete-untagged", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "GOMAXPROCS": "1", "OTEL_TRACES_EXPORTER": "none"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise servers.ServerFailed(
            f"{side} garbage-collect ended with {process.returncode}:\n{log.read_text(errors='replace')[-4000:]}"
        )
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


ROWS: Final = (
    Row(
        "collection",
        _title,
        (
            Metric("seconds", "s", "lower", 0.2, goals={servers.DISTRIBUTION: 0.2}),
            Metric("cpu_s", "CPU s", "lower"),
            Metric("memory_mib", "MiB of memory at most", "lower", 300, "value"),
            Metric("blobs", "blobs removed", "higher", 1, goals={servers.DISTRIBUTION: 1}),
            Metric("freed_mib", "MiB freed", "higher", 1, goals={servers.DISTRIBUTION: 1}),
        ),
        alone=_collect,
        without={servers.ZOT: "zot has no command for it"},
    ),
)
