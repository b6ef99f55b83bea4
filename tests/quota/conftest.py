"""Registries with quotas over one store: what the nodes of a cluster are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest
from tests.http.client import Client

from moorage.config.model import Settings
from moorage.config.sections.storage import Delete, Storage
from moorage.http.app import create_app
from moorage.quota.registry import LimitedRegistry
from moorage.quota.usage import FLUSH_S, Usage
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from moorage.quota.limits import Limit
    from moorage.storage.driver import Driver

SETTINGS = Settings(storage=Storage(delete=Delete(enabled=True)))


class Time:
    """A clock that a test moves; `sleep` returns at once, but that of the exchanges, which tests make, never."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds == FLUSH_S:
            await asyncio.Event().wait()
        self.now += seconds


class Node:
    """One process: a client of its application, and its usage."""

    def __init__(self, driver: Driver, limits: tuple[Limit, ...], time: Time) -> None:
        self.usage = Usage(driver, limits, clock=time, monotonic=lambda: 0.0, sleep=time.sleep)
        self.registry = LimitedRegistry(make_registry(driver, SETTINGS, b"shared"), driver, self.usage)
        self.client = Client(create_app(self.registry, http_options(SETTINGS), None, None))

    def used(self, index: int = 0) -> tuple[int, int] | None:
        return self.usage.used(self.usage.limits[index])


class StartNode(Protocol):
    def __call__(self, *limits: Limit) -> Node: ...


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    """An empty store: in memory, or on a file system, which lists uploads (parameter "filesystem")."""
    files = getattr(request, "param", "") == "filesystem"
    found: Driver = FilesystemDriver(tmp_path / "store") if files else MemoryDriver()
    yield found
    await found.close()


@pytest.fixture
async def node(driver: Driver, time: Time, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartNode]:
    """Starts nodes over one store."""
    running: list[Node] = []

    def start(*limits: Limit) -> Node:
        found = Node(driver, limits, time)
        running.append(found)
        return found

    yield start
    for each in running:
        await each.registry.close()
