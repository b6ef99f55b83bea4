"""deploy/monitoring/alerts.yml: each alert fires when it must and only then, on metrics that the registry has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from tests.live import require
from tests.monitoring.alert_cases import CASES

from moorage.metrics.table import TABLE

if TYPE_CHECKING:
    from tests.monitoring.alert_cases import Case

ROOT: Final = Path(__file__).parents[2]
FILE: Final = ROOT / "deploy" / "monitoring" / "alerts.yml"
RULES: Final[list[dict[str, Any]]] = yaml.safe_load(FILE.read_text())["groups"][0]["rules"]
SEVERITY: Final = {rule["alert"]: rule["labels"]["severity"] for rule in RULES}


def promtool(*arguments: str | Path) -> str:
    """Output of a run that must succeed."""
    command = [require("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_alerts_ask_for_metrics_that_there_are() -> None:
    """An alert on a metric that does not exist never fires."""
    for rule in RULES:
        expr = re.sub(r"\s+", " ", rule["expr"])
        selectors = re.findall(r"\b((?:registry|moorage|process)_\w+|up)(?:\{([^}]*)\})?", expr)
        assert selectors, rule["alert"]
        for metric, matchers in selectors:
            name = re.sub(r"_(bucket|sum|count)$", "", metric)
            assert name == "up" or name in TABLE, rule["alert"]
            labels = set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", matchers))
            assert "job" in labels, f'{rule["alert"]}: the chart replaces job="registry" in every selector'
            assert labels - {"job"} <= set(TABLE[name].labels if name in TABLE else ()), rule["alert"]


def test_every_alert_has_severity_summary_and_description() -> None:
    """A page at night without a remedy is noise."""
    assert set(SEVERITY.values()) == {"critical", "warning", "info"}
    for rule in RULES:
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_annotations_use_labels_that_the_alert_has() -> None:
    """A label that an aggregation has removed is an empty text in the message."""
    for case in CASES:
        (rule,) = (rule for rule in RULES if rule["alert"] == case.alert)
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert used <= set(re.findall(r"(\w+)=\"", case.labels)), case.alert


def test_every_alert_is_tested() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in RULES]


@pytest.mark.client
def test_prometheus_takes_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", FILE)


def expectation(case: Case, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """A test of promtool: the alert is firing, or neither firing nor anything else."""
    labels = f'alertname="{case.alert}",alertstate="firing",severity="{SEVERITY[case.alert]}",{case.labels}'
    query = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    samples = [{"labels": f"ALERTS{{{labels}}}", "value": 1}] if fires else []
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": f"{case.after}m", "exp_samples": samples}],
    }


@pytest.mark.client
@pytest.mark.slow
def test_every_alert_fires_when_it_must_and_only_then(tmp_path: Path) -> None:
    """One run of promtool; its output names the alert that differs."""
    tests = [
        expectation(case, series, fires=fires)
        for case in CASES
        for series, fires in ((case.fires, True), (case.quiet, False))
    ]
    path = tmp_path / "alerts_test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", path)
