"""docs/monitoring.md: the same metrics as in the source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from moorage.metrics.table import TABLE

PAGE: Final = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def test_every_metric_is_documented_as_it_is() -> None:
    """Dashboards are written from the table."""
    documented = [
        tuple(cell.strip() for cell in line.strip().strip("|").split("|"))
        for line in PAGE.splitlines()
        if re.match(r"\| `(registry|moorage|process)_", line)
    ]
    expected = [
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.meaning)
        for metric in TABLE.values()
    ]
    assert documented == expected


def test_names_say_what_they_count() -> None:
    """Prometheus' conventions: counters end in _total, and nothing else does."""
    for metric in TABLE.values():
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.bounds) == (metric.kind == "histogram"), metric.name
        assert list(metric.bounds) == sorted(metric.bounds)
