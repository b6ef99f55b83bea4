"""One process with Helm's library for all tests of the chart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.chart.helm import ROOT, Helm
from tests.cli.conftest import run  # noqa: F401  a fixture
from tests.live import everything_required

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of this folder on one worker, so that they share the process."""
    for item in items:
        if "tests/chart/" in item.path.as_posix():
            item.add_marker(pytest.mark.xdist_group("chart"))


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    python = ROOT / ".tools" / "chart" / "bin" / "python"
    if not (python.parents[1] / "installed").exists():
        reason = "Helm's library is not in .tools/chart (python3 tools/install_test_programs.py)"
        if everything_required():
            pytest.fail(reason)
        pytest.skip(reason)
    helm = Helm(python)
    yield helm
    helm.close()
