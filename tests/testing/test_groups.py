"""Tests that share a Docker engine, an image or an installed package stay in one worker of pytest-xdist."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("groups")
def test_the_group_is_in_the_name_by_which_tests_are_given_to_workers(request: pytest.FixtureRequest) -> None:
    """With a pytest that does not read the name, each worker starts an engine and builds an image of its own."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("the tests run in one process, or are not given to workers by group")
    assert request.node.nodeid.endswith("@groups")
