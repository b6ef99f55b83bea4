"""Every driver of ours passes the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.storage.filesystem import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.testing.driver_contract import DriverContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moorage.storage.driver import Driver


class TestFilesystem(DriverContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], Driver]:
        return lambda: FilesystemDriver(tmp_path / "root")


class TestMemory(DriverContract):
    @pytest.fixture
    def connect(self) -> Callable[[], Driver]:
        shared = MemoryDriver()
        return lambda: shared
