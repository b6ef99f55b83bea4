"""Scaling: k workers on k cores against one worker on one core.

Once with the generators on the cores left, which on a small machine leaves k small; once with a worker and a
generator on every core of the machine, against one of each on one core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench import load, servers
from bench.rows.base import Bench, Metric, Row
from bench.rows.small import CONNECTIONS, MANIFEST_GET, fill

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["ROWS"]

_NOTE: Final = "requests/s with k workers, divided by k times those with 1; the largest k the machine allows"


def _scale(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """The generators always have the same cores: those that the largest server leaves."""
    cpus = (bench.server_cpu, *bench.load_cpus)
    largest = _largest(len(cpus))
    numbers: dict[str, float] = {}
    for workers in range(1, largest + 1):
        with servers.start(side, root / str(workers), cpus[:workers], workers=workers) as server:
            fill(bench, server)
            result = load.run(
                server.port,
                MANIFEST_GET,
                connections=CONNECTIONS * workers,
                seconds=bench.seconds,
                cpus=cpus[largest:],
            )
        numbers[f"requests_{workers}"] = result.per_s
        numbers[f"efficiency_{workers}"] = result.per_s / workers / numbers["requests_1"]
        numbers[f"generator_busy_{workers}"] = result.busy
    numbers["efficiency"] = numbers[f"efficiency_{largest}"]
    numbers["together"] = _together(bench, side, root, cpus)
    return numbers


def _together(bench: Bench, side: str, root: Path, cpus: tuple[int, ...]) -> float:
    """A worker and a generator on every core, against one of each on one core."""
    rates = []
    for count in (1, len(cpus)):
        with servers.start(side, root / f"together-{count}", cpus[:count], workers=count) as server:
            fill(bench, server)
            connections = CONNECTIONS * count
            result = load.run(
                server.port, MANIFEST_GET, connections=connections, seconds=bench.seconds, cpus=cpus[:count]
            )
        rates.append(result.per_s)
    return rates[1] / rates[0] / len(cpus)


def _largest(cpus: int) -> int:
    """A generator core makes what about three server cores can answer; below four cores two share one."""
    return max(1, cpus * 3 // 4)


ROWS: Final = (
    Row(
        "scaling",
        "GET manifest with k workers on k cores",
        (
            Metric("efficiency", "of linear", "higher", 0.85, "value", _NOTE),
            Metric("together", "of linear, on all cores, generators among them", "higher", 0.85, "value"),
        ),
        alone=_scale,
        sides=(servers.MOORAGE,),
    ),
)
