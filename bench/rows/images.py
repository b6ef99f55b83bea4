"""Whole images: 16 clients push images of ten small layers, each to its own repository."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from bench import content, load
from bench.client import Client
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.servers import Server

__all__ = ["ROWS"]

_CLIENTS: Final = 16
_LAYERS: Final = 10
_LAYER_BYTES: Final = 8 << 10


def _push(bench: Bench, server: Server) -> Mapping[str, float]:
    count = bench.pick(48, 208) // _CLIENTS
    begin = time.monotonic() + 1.0 + count * 0.01
    cpu = server.cpu_s()
    works = [_client(server.port, index, count, begin) for index in range(_CLIENTS)]
    ends = load.in_processes(bench.load_cpus, works)
    images = count * _CLIENTS
    used = server.cpu_s() - cpu
    os.sync()
    return {"rate": images / (max(ends) - begin), "cpu_ms": used / images * 1000}


def _client(port: int, index: int, count: int, begin: float) -> Callable[[], float]:
    def work() -> float:
        images = [content.image(_LAYERS, _LAYER_BYTES) for _ in range(count)]
        name, run = f"team/project-{index}", os.urandom(4).hex()
        with Client(port) as client:
            time.sleep(max(0.0, begin - time.monotonic()))
            for number, image in enumerate(images):
                client.push_image(name, f"{run}-{number}", image)
        return time.monotonic()

    return work


ROWS: Final = (
    Row(
        "images-push",
        "push of 208 images with 10 layers of 8 KiB, 16 clients",
        (
            Metric("rate", "images/s", "higher", 3.0, goals={"distribution": 3.0, "zot": 1.0}),
            Metric("cpu_ms", "server CPU ms/image", "lower", goals={"distribution": 0.5}),
        ),
        _push,
    ),
)
