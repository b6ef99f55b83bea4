"""A store on a filesystem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio
from tests.gc.stores import Store

from moorage.storage.filesystem.driver import FilesystemDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    driver = FilesystemDriver(tmp_path)
    yield Store(driver, tmp_path)
    await driver.close()
