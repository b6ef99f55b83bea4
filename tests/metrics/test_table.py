"""docs/monitoring.md: the same metrics as in the source, and alerts that Prometheus takes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml
from tests.live import require

from moorage.metrics.table import TABLE

PAGE: Final = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def alerts() -> str:
    blocks: list[str] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (block,) = (block for block in blocks if block.startswith("groups:"))
    return block


def test_every_metric_is_documented_as_it_is() -> None:
    """Whoever writes a dashboard reads the table."""
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


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """An alert that names none never rings."""
    rules = yaml.safe_load(alerts())["groups"][0]["rules"]
    assert len(rules) >= 9
    for rule in rules:
        named = set(re.findall(r"\b(?:registry|moorage|process)_\w+", rule["expr"]))
        names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
        assert names <= TABLE.keys(), rule["alert"]
        assert names or "up{" in rule["expr"]
        for label in re.findall(r"(\w+)=~?\"", rule["expr"]):
            assert label == "job" or any(label in TABLE[name].labels for name in names), rule["alert"]


@pytest.mark.client
def test_prometheus_takes_the_alerts(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(alerts())
    command = [require("promtool"), "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
