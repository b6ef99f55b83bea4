"""Two registries in memory, of which `here`, the source, is that of each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.replication.places import RecordingTarget, StubbornSource, new_registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.registry.stored import StoredRegistry


@pytest_asyncio.fixture
async def there() -> AsyncIterator[StoredRegistry]:
    registry = new_registry()
    yield registry
    await registry.close()


@pytest.fixture
def source(here: StoredRegistry) -> StubbornSource:
    return StubbornSource(here)


@pytest.fixture
def target(there: StoredRegistry) -> RecordingTarget:
    return RecordingTarget(there)
