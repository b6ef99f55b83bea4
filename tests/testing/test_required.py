"""Nothing is left out of a run in silence: what is missing is reported, and fails where everything is required."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.live import ROOT, require, require_root


@pytest.mark.parametrize("variable", ["CI", "MOORAGE_REQUIRE_ALL"])
def test_a_missing_program_fails_where_everything_is_required(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A green run in CI is a run of everything."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("MOORAGE_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"install_test_programs.py --registries\)"):
        require("there-is-no-such-program", how="--registries")
    monkeypatch.setenv(variable, "true" if variable == "CI" else "1")
    with pytest.raises(pytest.fail.Exception, match=r"install_test_programs.py\)"):
        require("there-is-no-such-program")
    with pytest.raises(pytest.skip.Exception):
        require("there-is-no-such-program", optional=True)


def test_a_test_that_needs_root_fails_where_everything_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("MOORAGE_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="root"):
        require_root()


def test_no_file_of_tests_is_left_out_of_the_collection() -> None:
    """Such tests are in no summary; a marker that is deselected, or a skip with its reason, is."""
    ignoring = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert [path.name for path in ignoring if "collect_" + "ignore" in path.read_text()] == []
