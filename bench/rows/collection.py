"""Garbage collection beside the peers' `garbage-collect`, each on its own copy of the same store.

No registry is running: the peers ask for that.  With `--delete-untagged`: manifests without a tag go, with their
configs and what only they name, and blobs that nothing links.  Then one tag of a hundredth of the repositories is
deleted, and the command runs again.  What is left is compared with what the first side left: a quick collection
that finds less is no quick one.

Moorage waits twice in each run until all nodes have noticed it, without doing anything; `work_s` is without that.

CPU and peak memory are those of the process, by wait4(2).  The copies are hard links: no program writes to a file
in place.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from bench import servers
from bench.rows.base import Bench, Metric, Row
from bench.volume import Volume, blob_sizes
from moorage.registry.collection_state import RENEW_S

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ROWS"]

_MIB: Final = 1 << 20
_WAITS_S: Final = 2 * (1.05 * RENEW_S + 0.25)
"""Seconds for which a run of Moorage waits for other nodes, at its begin and at its end (`gc/run.py`)."""
_MEASURE: Final = """
import json, os, sys, time
began = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - began
with open(sys.argv[1], "w") as file:
    json.dump([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""
"""Starts the program from a small process: its peak memory begins with that of the process that started it."""


def _volume(bench: Bench) -> Volume:
    repositories = bench.pick(200, 2000, 20_000)
    return Volume(repositories, dead=repositories * 5)


def _title(bench: Bench) -> str:
    volume = _volume(bench)
    manifests, links = volume.repositories * volume.images, volume.repositories * volume.links
    return (
        f"garbage collection with --delete-untagged: {volume.repositories:,} repositories, "
        f"{manifests:,} manifests, {links:,} blob links"
    )


class _Used(NamedTuple):
    """What one run of a program took: `work_s` is `seconds` without fixed waits."""

    seconds: float
    work_s: float
    cpu_s: float
    peak_bytes: int


def _collect(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    template = bench.scratch / "collection-template"
    volume = _volume(bench)
    if not template.exists():
        volume.write(template)
    root.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "--archive", "--link", template, root], check=True)
    before = blob_sizes(root)
    config = root.with_name(f"{root.name}.yml")
    config.write_text(yaml.safe_dump(_settings(side, root)))
    try:
        first = _run(bench, side, config)
        after = blob_sizes(root)
        for tag in volume.some_tags(root, max(1, volume.repositories // 100)):
            shutil.rmtree(tag)
        again = _run(bench, side, config)
        last = blob_sizes(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return {
        "seconds": first.seconds,
        "work_s": first.work_s,
        "cpu_s": first.cpu_s,
        "memory_mib": first.peak_bytes / _MIB,
        "blobs": len(before) - len(after),
        "freed_mib": (sum(before.values()) - sum(after.values())) / _MIB,
        "again_s": again.seconds,
        "again_work_s": again.work_s,
        "again_cpu_s": again.cpu_s,
        "again_blobs": len(after) - len(last),
        "differing": _differing(root.with_name("left.json"), [sorted(after), sorted(last)]),
    }


def _differing(first: Path, left: list[list[str]]) -> int:
    """Return how many blobs were left after a run here and not by the first side, or there and not here."""
    if not first.exists():
        first.write_text(json.dumps(left))
    expected = json.loads(first.read_text())
    return sum(len(set(one) ^ set(other)) for one, other in zip(left, expected, strict=True))


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


def _run(bench: Bench, side: str, config: Path) -> _Used:
    """Run the command of a side.  Raises ServerFailed."""
    program = servers.PROGRAMS.command(side, config)[0]
    log = config.with_suffix(".log")
    result = config.with_suffix(".json")
    cache = config.with_suffix(".cache")
    cache.mkdir(mode=0o700, exist_ok=True)
    pin = ["taskset", "--cpu-list", str(bench.server_cpu)]
    command = [*pin, program, "garbage-collect", "--delete-untagged", str(config)]
    os.sync()
    with log.open("wb") as sink:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MEASURE, result, *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "GOMAXPROCS": "1",
                "OTEL_TRACES_EXPORTER": "none",
                "CACHE_DIRECTORY": str(cache),
            },
            check=False,
        )
    if done.returncode != 0:
        raise servers.ServerFailed(
            f"{side} garbage-collect ended with {done.returncode}:\n{log.read_text(errors='replace')[-4000:]}"
        )
    seconds, cpu_s, peak_kib = json.loads(result.read_text())
    waits_s = _WAITS_S if side == servers.MOORAGE else 0.0
    return _Used(seconds, seconds - waits_s, cpu_s, peak_kib * 1024)


ROWS: Final = (
    Row(
        "collection",
        _title,
        (
            Metric("seconds", "s", "lower", 0.2, goals={servers.DISTRIBUTION: 0.2}),
            Metric("work_s", "s without fixed waits", "lower"),
            Metric("cpu_s", "CPU s", "lower"),
            Metric("memory_mib", "MiB of memory at most", "lower", 300, "value"),
            Metric("blobs", "blobs removed", "higher", 1, goals={servers.DISTRIBUTION: 1}),
            Metric("freed_mib", "MiB freed", "higher", 1, goals={servers.DISTRIBUTION: 1}),
            Metric("again_s", "s again, after changes", "lower"),
            Metric("again_work_s", "s again, without fixed waits", "lower"),
            Metric("again_cpu_s", "CPU s again", "lower"),
            Metric("again_blobs", "blobs removed again", "higher", 1, goals={servers.DISTRIBUTION: 1}),
            Metric("differing", "blobs left that another side removed", "lower", 0, "value"),
        ),
        alone=_collect,
        without={servers.ZOT: "zot has no command for it"},
    ),
)
