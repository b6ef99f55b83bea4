"""A row of the benchmark: its work, the numbers that the work gives, and their goals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.servers import Server
    from bench.store import Store

__all__ = ["BOTH", "Bench", "Metric", "Row", "latency", "load_request"]

BOTH: Final = ("docker-registry", "moorage")


@dataclass(frozen=True, slots=True)
class Bench:
    """Options of a run.  The server is pinned to `server_cpu`, the load generators to `load_cpus`.

    `store` is set for rows with `s3`.
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
        """Return the size for a run that is quick, usual or full."""
        return quick if self.quick else full if self.full and full is not None else usual


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a row.

    `goal` is a bound for the ratio Moorage / docker-registry if `goal_of` is "ratio", else for Moorage's number;
    `goals` are bounds for the ratios to other peers.  `tail`: the number is a 99th percentile, which the report
    replaces by the maximum where a round has too few operations for one.
    """

    name: str
    unit: str
    better: Literal["higher", "lower"]
    goal: float | None = None
    goal_of: Literal["ratio", "value"] = "ratio"
    note: str = ""
    goals: Mapping[str, float] = field(default_factory=dict)
    tail: bool = False

    def goal_beside(self, peer: str) -> float | None:
        """Return the goal of the ratio to a peer, or of Moorage's own number."""
        return self.goal if self.goal_of == "value" or peer == "docker-registry" else self.goals.get(peer)


def latency(goal_ms: float | None = None, goals: Mapping[str, float] | None = None) -> tuple[Metric, Metric]:
    """Return the median and the 99th percentile of `percentiles.in_ms`, with one goal for both."""
    bound = goals or {}
    return (
        Metric("p50_ms", "ms (median)", "lower", goal_ms, "value" if goal_ms else "ratio", goals=bound),
        Metric(
            "p99_ms",
            "ms (99th percentile)",
            "lower",
            goal_ms,
            "value" if goal_ms else "ratio",
            goals=bound,
            tail=True,
        ),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `prepare` fills a fresh server; `measure` runs once per round on each side and returns all metrics.

    A row with `alone` starts its own servers: `prepare` is not called, `alone` gives the numbers of one round of
    one side.  `title` may depend on the sizes of the run.  `peer` names the other side of a row that compares with
    something else than a registry; such a row has no other peers.  `without` has a reason for each peer that
    cannot do the work; `programs` have to be installed for the row.
    `s3`: all its rounds, of both sides, use one S3 store, `Bench.store`.
    """

    name: str
    title: str | Callable[[Bench], str]
    metrics: tuple[Metric, ...]
    measure: Callable[[Bench, Server], Mapping[str, float]] | None = None
    prepare: Callable[[Bench, Server], None] | None = None
    alone: Callable[[Bench, str, Path], Mapping[str, float]] | None = None
    sides: tuple[str, ...] = BOTH
    rounds: int | None = None
    peer: str = ""
    without: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    s3: bool = False

    def title_of(self, bench: Bench) -> str:
        """Return the title with the sizes of this run."""
        return self.title if isinstance(self.title, str) else self.title(bench)

    def peers(self, chosen: Sequence[str]) -> list[str]:
        """Return the peers of a run that this row is compared with."""
        if self.sides != BOTH:
            return []
        if self.peer:
            return [BOTH[0]]
        return [peer for peer in chosen if peer not in self.without]

    def left_out(self, chosen: Sequence[str]) -> dict[str, str]:
        """Return the peers of a run that are missing in this row, with the reason."""
        if self.peer or self.sides != BOTH:
            return {}
        return {peer: self.without[peer] for peer in chosen if peer in self.without}


def load_request(method: str, target: str, *, accept: str = "*/*", authorization: str = "") -> bytes:
    """Return a request with the headers that Docker sends."""
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
