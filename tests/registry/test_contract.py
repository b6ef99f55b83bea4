"""The stored registry passes the registry's contract on every kind of driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.testing.registry_contract import RegistryContract

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from moorage.registry.interface import Registry
    from moorage.storage.driver import Driver

OPTIONS = StoredOptions(delete_enabled=True, links_s=0)
"""Without remembered links, since a deletion waits until they are forgotten."""


def stored(driver: Driver) -> StoredRegistry:
    return StoredRegistry(driver, b"shared by all processes", OPTIONS)


class TestMemory(RegistryContract):
    @pytest.fixture
    def connect(self) -> Callable[[], Registry]:
        driver = MemoryDriver()
        return lambda: stored(driver)


class TestFilesystem(RegistryContract):
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Callable[[], Registry]:
        return lambda: stored(FilesystemDriver(tmp_path / "root"))


class TestObjects(RegistryContract):
    """An object store in memory."""

    @pytest.fixture
    def connect(self) -> Callable[[], Registry]:
        bucket = Bucket()
        return lambda: stored(ObjectDriver.with_chunk_log(MemoryObjects(bucket, chunk=1000)))
