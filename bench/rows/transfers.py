"""Large blobs, with and without TLS: one client, 256 MiB, one transfer after the other.

`client` is the share of a core that the client used: near 1, the client is what was measured, not the server.
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Final

from bench import content
from bench.rows.base import Bench, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.client import Client
    from bench.content import Blob
    from bench.servers import Server

__all__ = ["NAME", "SIZE", "buffer", "measured", "metrics", "pulled", "pushed"]

SIZE: Final = 256 << 20
NAME: Final = "library/large"
_MB: Final = 1e6
_GIB: Final = 1 << 30


@cache
def buffer() -> content.Stamped:
    """Return the memory that every large blob is made in."""
    return content.Stamped(SIZE)


def metrics(
    rate: float | None = None,
    cpu: float | None = None,
    *,
    rates: Mapping[str, float] | None = None,
    cpus: Mapping[str, float] | None = None,
) -> tuple[Metric, ...]:
    """Return the metrics of `measured`, with goals for the rate and for the processor time."""
    return (
        Metric("rate", "MB/s", "higher", rate, goals=rates or {}),
        Metric("cpu", "server CPU s/GiB", "lower", cpu, goals=cpus or {}),
        Metric("client", "of a core, the client", "lower"),
    )


def measured(server: Server, size: int, work: Callable[[], None]) -> dict[str, float]:
    """Return rate, processor time of the server and load of the client while `work` moves `size` bytes."""
    cpu, busy, began = server.cpu_s(), time.process_time(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    return {
        "rate": size / _MB / wall,
        "cpu": (server.cpu_s() - cpu) * _GIB / size,
        "client": (time.process_time() - busy) / wall,
    }


def pulled(bench: Bench, server: Server, connect: Callable[[], Client], target: str) -> dict[str, float]:
    """Measure a few GETs of one blob over one connection."""
    times = bench.pick(4, 12)

    def work() -> None:
        with connect() as client:
            for _ in range(times):
                client.download(target, SIZE)

    return measured(server, times * SIZE, work)


def pushed(
    bench: Bench, server: Server, connect: Callable[[], Client], push: Callable[[Client, str, Blob], None]
) -> dict[str, float]:
    """Measure a few pushes of fresh blobs over one connection; the disk is emptied and idle before each."""
    times = bench.pick(2, 4)
    wall = cpu = busy = 0.0
    with connect() as client:
        for _ in range(times):
            blob = buffer().fresh()
            one = measured(server, SIZE, lambda blob=blob: push(client, NAME, blob))  # type: ignore[misc]
            seconds = SIZE / _MB / one["rate"]
            wall, cpu, busy = wall + seconds, cpu + one["cpu"], busy + one["client"] * seconds
            server.empty()
    return {"rate": times * SIZE / _MB / wall, "cpu": cpu / times, "client": busy / wall}
