"""Rounds to numbers to a table: medians, ratios round by round, goals."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.servers import OURS, PEER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.rows.base import Metric, Row

__all__ = ["Measured", "lines", "markdown", "write"]

_HEADER = (
    "| work | unit | beside | its number | Moorage | ratio: median (min to max) | goal | met |",
    "|---|---|---|--:|--:|--:|--:|---|",
)


@dataclass(slots=True)
class Measured:
    """What the rounds of one row gave, per side: each round is a mapping from metric to number."""

    row: Row
    peers: Sequence[str] = (PEER,)
    rounds: dict[str, list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def values(self, side: str, metric: str) -> list[float]:
        """Of each round that has it; what a store on another machine spends is not known, for one."""
        return [numbers[metric] for numbers in self.rounds[side] if metric in numbers]

    def ratios(self, metric: str, peer: str = PEER) -> list[float]:
        """Ours through a peer's, for each pair of neighbouring rounds."""
        pairs = zip(self.values(OURS, metric), self.values(peer, metric), strict=False)
        return [ours / theirs for ours, theirs in pairs if theirs]

    def met(self, metric: Metric, peer: str = PEER) -> bool | None:
        """Return whether the median reaches the goal; None where there is none, or nothing was measured."""
        numbers = self.ratios(metric.name, peer) if metric.goal_of == "ratio" else self.values(OURS, metric.name)
        bound = metric.goal_beside(peer)
        if bound is None or not numbers:
            return None
        middle = statistics.median(numbers)
        return middle >= bound if metric.better == "higher" else middle <= bound


def lines(measured: Measured, metric: Metric) -> list[str]:
    """Return the lines of the table for one number, one for each peer."""
    return [_line(measured, metric, peer) for peer in measured.peers or ("",)]


def _line(measured: Measured, metric: Metric, peer: str) -> str:
    ratios = measured.ratios(metric.name, peer) if peer else []
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    goal, bound = "", metric.goal_beside(peer)
    if bound is not None:
        goal = f"{'≥' if metric.better == 'higher' else '≤'} {bound:g}"
        goal += " times" if metric.goal_of == "ratio" else f" {metric.unit.split()[0]}"
    met = {True: "yes", False: "**no**", None: ""}[measured.met(metric, peer)]
    theirs = _middle(measured.values(peer, metric.name)) if peer else ""
    ours = _middle(measured.values(OURS, metric.name))
    beside = measured.row.peer or peer
    cells = [measured.row.title, metric.unit, beside, theirs, ours, ratio, goal, met]
    return f"| {' | '.join(cells)} |"


def markdown(machine: Mapping[str, str], done: Sequence[Measured]) -> str:
    facts = [f"* {name}: {value}" for name, value in machine.items()]
    rows = [text for measured in done for metric in measured.row.metrics for text in lines(measured, metric)]
    return "\n".join([*facts, "", *_HEADER, *rows, ""])


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
