"""Measure the images: the numbers of docs/deploying/image.md.  As root, on an idle machine:

    .venv/bin/python -m tests.image.measure

Sizes are those of the layers, as tars and as gzip compresses them.  The start is measured on one core, from
`docker start` to the first answer of /v2/, with the CPU time that the container has used by then; memory is the
proportional set size of each process when a registry of two workers has answered once.
"""

from __future__ import annotations

import json
import os
import statistics
import tarfile
import tempfile
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Literal

from tests.clients.daemons import dockerd
from tests.image import build
from tests.ports import free_port

STARTS = 7
TARGETS: tuple[Literal["full", "slim"], ...] = ("full", "slim")
LAYERS = ("base", "bytecode of the standard library, programs", "users, without pip", "libraries", "Moorage")


def main() -> None:
    with dockerd() as engine:
        for target in TARGETS:
            name = build.image(engine, target)
            print(f"\n{target}")
            sizes(engine, name)
            starts(engine, name)
            memory(engine, name)


def sizes(engine: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        build.run(engine, "save", "--output", f"{scratch}/image.tar", name)
        with tarfile.open(f"{scratch}/image.tar") as archive:
            archive.extractall(scratch, filter="data")
        (manifest,) = json.loads(Path(scratch, "manifest.json").read_text())
        total = [0, 0]
        for label, layer in zip(LAYERS, manifest["Layers"], strict=True):
            data = Path(scratch, layer).read_bytes()
            both = len(data), len(zlib.compress(data, 6))
            print(f"  {both[0] / 1e6:7.1f} MB {both[1] / 1e6:7.1f} MB  {label}")
            total = [before + now for before, now in zip(total, both, strict=True)]
        print(f"  {total[0] / 1e6:7.1f} MB {total[1] / 1e6:7.1f} MB  together")


def starts(engine: str, name: str) -> None:
    seconds, cpu = [], []
    for _ in range(STARTS):
        port = free_port()
        options = ("--network=host", "--cpuset-cpus=0", "-e", f"REGISTRY_HTTP_ADDR=127.0.0.1:{port}")
        identity = build.run(engine, "create", *options, name).strip()
        begun = time.monotonic()
        build.run(engine, "start", identity)
        answered(port)
        seconds.append(time.monotonic() - begun)
        cpu.append(sum(sum(ticks(pid)) for pid in pids(engine, identity)) / os.sysconf("SC_CLK_TCK"))
        build.run(engine, "rm", "--force", "--volumes", identity)
    print(f"  start to first answer: {statistics.median(seconds):.2f} s, CPU {statistics.median(cpu):.2f} s")


def memory(engine: str, name: str) -> None:
    port = free_port()
    variables = (f"REGISTRY_HTTP_ADDR=127.0.0.1:{port}", "REGISTRY_HTTP_WORKERS=2")
    options = [part for variable in variables for part in ("-e", variable)]
    identity = build.run(engine, "run", "--detach", "--network=host", *options, name).strip()
    answered(port)
    for pid in pids(engine, identity):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        print(f"  process {pid}: {pss / 1024:.1f} MiB")
    build.run(engine, "rm", "--force", "--volumes", identity)


def answered(port: int) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.005)


def pids(engine: str, identity: str) -> list[int]:
    lines = build.run(engine, "top", identity, "-eo", "pid").split()
    return [int(line) for line in lines if line.isdecimal()]


def ticks(pid: int) -> tuple[int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]), int(fields[12])


if __name__ == "__main__":
    main()
