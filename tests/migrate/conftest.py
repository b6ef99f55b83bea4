"""Fixtures for `moorage migrate check` and for stores that two registries share."""

from __future__ import annotations

import pytest
from tests.cli.conftest import run

from moorage.migration import accounts

__all__ = ["run"]


@pytest.fixture(autouse=True)
def _no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit that Debian's docker-registry brings along names a user of its own."""
    monkeypatch.setattr(accounts, "of_unit", lambda: None)
