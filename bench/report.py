"""Rounds to numbers to a table: medians, ratios round by round, goals."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.servers import OURS, PEER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.rows.base import Metric, Row

__all__ = ["Measured", "line", "markdown", "write"]

_HEADER = (
    "| work | unit | docker-registry, or as told | Moorage | ratio: median (min to max) | goal | met |",
    "|---|---|--:|--:|--:|--:|---|",
)


@dataclass(slots=True)
class Measured:
    """What the rounds of one row gave, per side: each round is a mapping from metric to number."""

    row: Row
    rounds: dict[str, list[Mapping[str, float]]] = field(default_factory=lambda: {OURS: [], PEER: []})

    def values(self, side: str, metric: str) -> list[float]:
        """Of each round that has it; what a store on another machine spends is not known, for one."""
        return [numbers[metric] for numbers in self.rounds[side] if metric in numbers]

    def ratios(self, metric: str) -> list[float]:
        """Ours through the peer's, for each pair of neighbouring rounds."""
        pairs = zip(self.values(OURS, metric), self.values(PEER, metric), strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs]

    def met(self, metric: Metric) -> bool | None:
        """Does the median reach the goal?  None where there is none, or nothing was measured."""
        numbers = self.ratios(metric.name) if metric.goal_of == "ratio" else self.values(OURS, metric.name)
        if metric.goal is None or not numbers:
            return None
        middle = statistics.median(numbers)
        return middle >= metric.goal if metric.better == "higher" else middle <= metric.goal


def line(measured: Measured, metric: Metric) -> str:
    """One row of the table."""
    ratios = measured.ratios(metric.name)
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    goal = ""
    if metric.goal is not None:
        goal = f"{'≥' if metric.better == 'higher' else '≤'} {metric.goal:g}"
        goal += " times" if metric.goal_of == "ratio" else f" {metric.unit.split()[0]}"
    met = {True: "yes", False: "**no**", None: ""}[measured.met(metric)]
    sides = (_middle(measured.values(side, metric.name)) for side in (PEER, OURS))
    title = f"{measured.row.title}; beside it {measured.row.peer}" if measured.row.peer else measured.row.title
    return f"| {' | '.join((title, metric.unit, *sides, ratio, goal, met))} |"


def markdown(machine: Mapping[str, str], done: Sequence[Measured]) -> str:
    lines = [f"* {name}: {value}" for name, value in machine.items()]
    rows = [line(measured, metric) for measured in done for metric in measured.row.metrics]
    return "\n".join([*lines, "", *_HEADER, *rows, ""])


def write(folder: Path, machine: Mapping[str, str], options: Mapping[str, Any], done: Sequence[Measured]) -> None:
    """`results.json` with every number of every round, `results.md` with the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {measured.row.name: measured.rounds for measured in done}
    document = {"machine": dict(machine), "options": dict(options), "rows": rows}
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(machine, done))


def _middle(numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    middle = statistics.median(numbers)
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}" if middle >= 10 else f"{middle:.3g}"
