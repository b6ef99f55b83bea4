"""The command line of the benchmark: what it refuses, and one real run, short, of Moorage alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench import __main__ as command

_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peer", "debian=/bin/true", "--peer", "debian=/bin/true"], "--peer: debian given more than once"),
        (["--peer", "zot=/bin/true", "--peer", "zot=/bin/false"], "--peer: zot given more than once"),
        (["--peer", "none", "--peer", "debian"], "--peer none measures Moorage alone"),
        (["--peer", "zot"], "--peer zot: expected none, debian, distribution=PATH or zot=PATH"),
        (["--peer", "harbor=/bin/true"], "--peer harbor=/bin/true: expected none"),
        (["--peer", "zot=/no/such/zot"], "there is no program /no/such/zot"),
        (["--peer", "none", "--only", "start,no-such-row"], "no such row: no-such-row; there are manifest-get"),
        (["--peer", "none", "--only", "start,start"], "--only: start given more than once"),
        (["--peer", "none", "--only", ""], "no such row"),
        (["--peer", "none", "--disk", "/no/such/folder"], "--disk /no/such/folder: there is no such folder"),
    ],
)
def test_unusable_arguments_are_refused_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--rounds", "-1"], ["--seconds", "0"], ["--seconds", "nan"]]
)
def test_a_run_of_no_length_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmark needs two cores")
def test_a_quick_run_of_moorage_alone(tmp_path: Path) -> None:
    arguments = ["--quick", "--rounds", "1", "--seconds", "0.3", "--peer", "none", "--disk", str(tmp_path)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench",
            *arguments,
            "--only",
            "manifest-get,zb-mixed-1",
            "--out",
            str(tmp_path / "out"),
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    (small,) = rows["manifest-get"]["moorage"]
    assert small["operations"] > 0
    assert small["p50_ms"] <= small["p99_ms"] <= small["max_ms"]
    (mixed,) = rows["zb-mixed-1"]["moorage"]
    assert mixed["operations"] == 52
    assert mixed["rate"] > 0
    text = (tmp_path / "out/results.md").read_text()
    assert "| zb: 75 % pull and 25 % push of 1 MiB, 52 times | ms (max of 52) |" in text
    assert text in done.stdout
