"""Numbers of the benchmark's report: a wrong ratio, percentile or goal is a wrong claim in docs/benchmarks.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from bench import percentiles, report
from bench.rows.base import Metric, Row, latency

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_RATE = Metric("rate", "MB/s", "higher", 2.0, goals={"zot": 1.0})


def _measured(
    ours: Sequence[Mapping[str, float]], peer: str = "docker-registry", theirs: Sequence[Mapping[str, float]] = ()
) -> report.Measured:
    measured = report.Measured(Row("a-row", "a row", (_RATE,)), "a row", [peer] if peer else [])
    measured.rounds["moorage"] = list(ours)
    if peer:
        measured.rounds[peer] = list(theirs)
    return measured


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("count", "percent", "rank"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (5, 50, 3), (99, 99, 99), (100, 99, 99), (101, 99, 100), (1000, 99, 990)],
)
def test_percentiles_are_by_nearest_rank(count: int, percent: int, rank: int) -> None:
    assert percentiles.nearest_rank(range(1, count + 1), percent) == rank


def test_the_latencies_of_a_round_are_those_of_all_its_operations() -> None:
    numbers = percentiles.in_ms(number / 1000 for number in range(200, 0, -1))
    assert numbers == {
        "p50_ms": pytest.approx(100),
        "p99_ms": pytest.approx(198),
        "max_ms": pytest.approx(200),
        "operations": 200,
    }


def test_a_ratio_is_that_of_the_same_round() -> None:
    """The ratio of the medians would be 2."""
    measured = _measured(
        [{"rate": 100}, {"rate": 10}, {"rate": 60}], theirs=[{"rate": 50}, {"rate": 2}, {"rate": 30}]
    )
    assert measured.ratios("rate") == [2, 5, 2]
    line = _cells(report.lines(measured, _RATE)[0])
    assert line == ["a row", "MB/s", "docker-registry", "30.0", "60.0", "2.00 (2.00 to 5.00)", "≥ 2 times", "yes"]


def test_a_round_without_the_number_shifts_no_ratio() -> None:
    measured = _measured([{"rate": 100}, {"rate": 10}], theirs=[{}, {"rate": 5}])
    assert measured.ratios("rate") == [2]


def test_a_number_of_zero_gives_no_ratio() -> None:
    assert _measured([{"rate": 1}], theirs=[{"rate": 0}]).ratios("rate") == []


@pytest.mark.parametrize(
    ("metric", "ours", "peer", "goal", "met"),
    [
        (_RATE, 20, "docker-registry", "≥ 2 times", "yes"),
        (_RATE, 19, "docker-registry", "≥ 2 times", "**no**"),
        (_RATE, 10, "zot", "≥ 1 times", "yes"),
        (_RATE, 10, "distribution", "", ""),
        (Metric("rate", "s/GiB", "lower", 0.5), 5, "docker-registry", "≤ 0.5 times", "yes"),
        (Metric("rate", "s/GiB", "lower", 0.5), 6, "docker-registry", "≤ 0.5 times", "**no**"),
        (Metric("rate", "MiB resident", "lower", 150, "value"), 150, "zot", "≤ 150 MiB", "yes"),
        (Metric("rate", "MiB resident", "lower", 150, "value"), 151, "", "≤ 150 MiB", "**no**"),
    ],
)
def test_goals_are_of_the_ratio_to_the_peer_or_of_our_number(
    metric: Metric, ours: float, peer: str, goal: str, met: str
) -> None:
    measured = _measured([{"rate": ours}], peer, [{"rate": 10}])
    assert _cells(report.lines(measured, metric)[0])[-2:] == [goal, met]


@pytest.mark.parametrize(
    ("ours", "theirs", "unit", "shown"),
    [
        (100, 100, "ms (99th percentile)", "7"),
        (99, 99, "ms (max of 99)", "9"),
        (200, 20, "ms (max of 20 to 200)", "9"),
    ],
)
def test_few_operations_have_a_maximum_and_no_99th_percentile(
    ours: int, theirs: int, unit: str, shown: str
) -> None:
    numbers = {"p50_ms": 1.0, "p99_ms": 7.0, "max_ms": 9.0}
    measured = _measured([{**numbers, "operations": ours}], theirs=[{**numbers, "operations": theirs}])
    median, tail = latency(8)
    assert _cells(report.lines(measured, median)[0])[1] == "ms (median)"
    line = _cells(report.lines(measured, tail)[0])
    assert line[1] == unit
    assert line[4] == shown
    assert line[-1] == ("yes" if shown == "7" else "**no**"), "the goal is judged by the number that is shown"


def test_moorage_alone_has_numbers_and_no_ratio() -> None:
    line = _cells(report.lines(_measured([{"rate": 5}], peer=""), _RATE)[0])
    assert line == ["a row", "MB/s", "", "", "5", "", "", ""]


def test_what_stands_beside_a_row_is_named_by_the_row() -> None:
    measured = _measured([{"rate": 5}], theirs=[{"rate": 5}])
    measured.row = Row("a-row", "a row", (_RATE,), peer="nginx")
    assert _cells(report.lines(measured, _RATE)[0])[2] == "nginx"


def test_the_report_has_the_machine_the_legend_and_what_was_left_out(tmp_path: Path) -> None:
    left_out = [
        report.LeftOut("tags-list", "its storage has another layout", "zot"),
        report.LeftOut("tls-get-large", "nginx not installed"),
    ]
    report.write(
        tmp_path / "out", {"processor": "a fast one"}, {"rounds": 1}, [_measured([{"rate": 5}])], left_out
    )
    text = (tmp_path / "out/results.md").read_text()
    assert text.startswith("* processor: a fast one\n")
    assert "fewer than 100, the 99th is the maximum" in text
    assert "Left out:\n\n* tags-list beside zot: its storage" in text
    assert "* tls-get-large: nginx not installed\n" in text
    document = json.loads((tmp_path / "out/results.json").read_text())
    assert document["rows"] == {"a-row": {"moorage": [{"rate": 5}], "docker-registry": []}}
    assert document["left_out"][0] == {
        "row": "tags-list",
        "reason": "its storage has another layout",
        "peer": "zot",
    }


def test_a_report_of_everything_has_no_word_of_what_was_left_out() -> None:
    assert "Left out" not in report.markdown({}, [_measured([{"rate": 5}])])
