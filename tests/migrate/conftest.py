"""Fixtures for `moorage migrate check` and for stores that two registries share."""

from __future__ import annotations

from tests.cli.conftest import run

__all__ = ["run"]
