"""The drivers that the stored registry is tested over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from moorage.storage.driver import Driver


@pytest.fixture(params=["memory", "filesystem"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """An empty store."""
    found: Driver = MemoryDriver() if request.param == "memory" else FilesystemDriver(tmp_path / "store")
    yield found
    await found.close()
