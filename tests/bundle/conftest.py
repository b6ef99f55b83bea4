"""Registries of two sites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio
from tests.bundle.sites import new_registry
from tests.cli.conftest import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.registry.stored import StoredRegistry

__all__ = ["here", "run", "there"]


@pytest_asyncio.fixture
async def here() -> AsyncIterator[StoredRegistry]:
    """The registry of the site with a network."""
    registry = new_registry()
    yield registry
    await registry.close()


@pytest_asyncio.fixture
async def there() -> AsyncIterator[StoredRegistry]:
    """The registry of the other site."""
    registry = new_registry()
    yield registry
    await registry.close()
