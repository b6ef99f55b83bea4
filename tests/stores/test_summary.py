"""Report of the job of the stores on its tests, and its exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stores.__main__ import main
from tests.stores.summary import read, table

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

REPORT = """<?xml version="1.0"?>
<testsuites><testsuite>
  <testcase classname="tests.a" name="test_one" />
  <testcase classname="tests.a" name="test_two"><skipped message="cannot hold on swift: it has no keys">x</skipped>
  </testcase>
  %s
</testsuite></testsuites>
"""
FAILURE = (
    '<testcase classname="tests.a" name="test_bad"><failure message="assert 1&#10;more">x</failure></testcase>'
)
ERROR = '<testcase classname="tests.a" name="test_bad"><error message="no fixture">x</error></testcase>'
MISSING = '<testcase classname="tests.a" name="test_none"><skipped message="no skopeo">x</skipped></testcase>'


def test_what_a_store_cannot_pass_is_excused_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT % "")
    outcome = read("a part", 0, path, 3.0)
    assert outcome.good
    assert (outcome.passed, outcome.excused) == (1, [("tests.a::test_two", "it has no keys")])
    reported = table("a store", [outcome, outcome])
    assert "it has no keys" in reported
    assert "tests.a::test_two" in reported
    assert ["all", "2", "0", "2", "0"] in [line.split()[:5] for line in reported.splitlines()]


def test_failures_errors_and_missing_programs_are_no_success(tmp_path: Path) -> None:
    """A job that runs half of its tests and reports nothing is worse than none."""
    path = tmp_path / "report.xml"
    for case, status, output in ((FAILURE, 1, "assert 1"), (ERROR, 1, "no fixture"), (MISSING, 0, "no skopeo")):
        path.write_text(REPORT % case)
        outcome = read("a part", status, path, 3.0)
        assert not outcome.good
        assert f": {output}" in table("a store", [outcome])


def test_a_part_without_tests_or_without_a_report_is_no_success(tmp_path: Path) -> None:
    """A test that was renamed, or pytest itself failing."""
    outcome = read("a part", 4, tmp_path / "none.xml", 3.0)
    assert not outcome.good
    assert "pytest ended with status 4" in table("a store", [outcome])


def test_a_store_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["minio"], ["--hold"], ["--what"]):
        assert main(wrong) == 2
        assert "python3 dev.py stores" in capsys.readouterr().err
