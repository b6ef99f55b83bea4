"""What a row of the benchmark is: work, the numbers it gives, and what they must come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.servers import Server
    from bench.store import Store

__all__ = ["BOTH", "Bench", "Metric", "Row", "load_request"]

BOTH: Final = ("docker-registry", "moorage")


@dataclass(frozen=True, slots=True)
class Bench:
    """How a run is done.  The servers have `server_cpus[:workers]`, the load generators `load_cpus`.

    `store` is there for rows that ask for one.
    """

    server_cpu: int
    load_cpus: tuple[int, ...]
    scratch: Path
    rounds: int
    seconds: float
    quick: bool
    full: bool
    store: Store | None = None

    def pick(self, quick: int, usual: int, full: int | None = None) -> int:
        """A size by how thorough the run is to be."""
        return quick if self.quick else full if self.full and full is not None else usual


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a row.

    `goal` is a bound for the ratio ours / the peer's if `goal_of` is "ratio", else for our own number.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    goal: float | None = None
    goal_of: Literal["ratio", "value"] = "ratio"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """`prepare` fills a fresh server; `measure` runs once per round on each side and gives every metric.

    A row with `alone` starts its own servers: `prepare` is not called, `measure_alone` gives the numbers of
    one round of one side.  `peer` says what stands beside ours, if that is not docker-registry.
    `s3`: all its rounds, of both sides, use one S3 store, `Bench.store`.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Bench, Server], Mapping[str, float]] | None = None
    prepare: Callable[[Bench, Server], None] | None = None
    alone: Callable[[Bench, str, Path], Mapping[str, float]] | None = None
    sides: tuple[str, ...] = BOTH
    rounds: int | None = None
    peer: str = ""
    s3: bool = False


def load_request(method: str, target: str, *, accept: str = "*/*", authorization: str = "") -> bytes:
    """A request with the headers that Docker sends."""
    credentials = f"Authorization: {authorization}\r\n" if authorization else ""
    return (
        f"{method} {target} HTTP/1.1\r\n"
        "Host: registry.example.com:5000\r\n"
        "User-Agent: docker/27.3.1 go/go1.22.7 git-commit/41ca978 kernel/6.1.0 os/linux arch/amd64 "
        "UpstreamClient(Docker-Client/27.3.1 (linux))\r\n"
        f"Accept: {accept}\r\n"
        f"{credentials}"
        "Accept-Encoding: identity\r\n\r\n"
    ).encode()
