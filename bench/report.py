"""Rounds to numbers to a table: medians, ratios round by round, goals, and the rows that were left out."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from bench.percentiles import ENOUGH
from bench.servers import MOORAGE, PEER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bench.rows.base import Metric, Row

__all__ = ["LeftOut", "Measured", "lines", "markdown", "write"]

_HEADER: Final = (
    "| work | unit | beside | its number | Moorage | ratio: median (min to max) | goal | met |",
    "|---|---|---|--:|--:|--:|--:|---|",
)
_LEGEND: Final = (
    "A number is the median of the rounds; a ratio is Moorage's number through the other's of the same round.",
    (
        f"Percentiles are by nearest rank over all operations of a round. With fewer than {ENOUGH}, the 99th is "
        "the maximum, and reported as such: ms (max of N)."
    ),
    "Of a core, the client: near 1, the client limits the rate, and the server's CPU time is the better number.",
)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that was not measured beside one peer, or, without one, not at all."""

    row: str
    reason: str
    peer: str = ""

    def __str__(self) -> str:
        return f"{self.row}{f' beside {self.peer}' if self.peer else ''}: {self.reason}"


@dataclass(slots=True)
class Measured:
    """The rounds of one row, per side: each round is a mapping from metric to number."""

    row: Row
    title: str
    peers: Sequence[str] = (PEER,)
    rounds: dict[str, list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def values(self, side: str, metric: str) -> list[float]:
        """Return the number of each round that has it; the load of a store on another machine is not known."""
        return [numbers[metric] for numbers in self.rounds[side] if metric in numbers]

    def ratios(self, metric: str, peer: str = PEER) -> list[float]:
        """Return Moorage's number divided by the peer's, for each round that has both."""
        pairs = zip(self.rounds[MOORAGE], self.rounds[peer], strict=False)
        return [own[metric] / other[metric] for own, other in pairs if metric in own and other.get(metric)]

    def met(self, metric: Metric, peer: str = PEER) -> bool | None:
        """Return whether the median reaches the goal; None without a goal or a measurement."""
        numbers = (
            self.ratios(metric.name, peer) if metric.goal_of == "ratio" else self.values(MOORAGE, metric.name)
        )
        bound = metric.goal_beside(peer)
        if bound is None or not numbers:
            return None
        middle = statistics.median(numbers)
        return middle >= bound if metric.better == "higher" else middle <= bound

    def shown(self, metric: Metric) -> Metric:
        """Return the metric, or the maximum instead of a 99th percentile where a side has too few operations."""
        counts = [count for side in (*self.peers, MOORAGE) for count in self.values(side, "operations")]
        if not metric.tail or not counts or min(counts) >= ENOUGH:
            return metric
        fewest, most = min(counts), max(counts)
        count = f"{fewest:.0f}" if fewest == most else f"{fewest:.0f} to {most:.0f}"
        return replace(metric, name="max_ms", unit=f"ms (max of {count})")


def lines(measured: Measured, metric: Metric) -> list[str]:
    """Return the lines of the table for one number, one for each peer."""
    return [_line(measured, measured.shown(metric), peer) for peer in measured.peers or ("",)]


def _line(measured: Measured, metric: Metric, peer: str) -> str:
    ratios = measured.ratios(metric.name, peer) if peer else []
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    goal, bound = "", metric.goal_beside(peer)
    if bound is not None:
        goal = f"{'≥' if metric.better == 'higher' else '≤'} {bound:g}"
        goal += " times" if metric.goal_of == "ratio" else f" {metric.unit.split()[0]}"
    met = {True: "yes", False: "**no**", None: ""}[measured.met(metric, peer)]
    peer_value = _middle(measured.values(peer, metric.name)) if peer else ""
    own = _middle(measured.values(MOORAGE, metric.name))
    beside = measured.row.peer or peer
    cells = [measured.title, metric.unit, beside, peer_value, own, ratio, goal, met]
    return f"| {' | '.join(cells)} |"


def markdown(machine: Mapping[str, str], done: Sequence[Measured], left_out: Sequence[LeftOut] = ()) -> str:
    """Return the report: the machine, the table, its legend, and what is missing in it."""
    facts = [f"* {name}: {value}" for name, value in machine.items()]
    rows = [text for measured in done for metric in measured.row.metrics for text in lines(measured, metric)]
    missing = ["", "Left out:", "", *(f"* {one}" for one in left_out)] if left_out else []
    return "\n".join([*facts, "", *_HEADER, *rows, "", *(f"* {text}" for text in _LEGEND), *missing, ""])


def write(
    folder: Path,
    machine: Mapping[str, str],
    options: Mapping[str, Any],
    done: Sequence[Measured],
    left_out: Sequence[LeftOut] = (),
) -> None:
    """Write `results.json` with every number of every round, and the table as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": dict(machine),
        "options": dict(options),
        "rows": {measured.row.name: measured.rounds for measured in done},
        "titles": {measured.row.name: measured.title for measured in done},
        "left_out": [asdict(one) for one in left_out],
    }
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(machine, done, left_out))


def _middle(numbers: Sequence[float]) -> str:
    if not numbers:
        return ""
    middle = statistics.median(numbers)
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}" if middle >= 10 else f"{middle:.3g}"
