"""The whole application over a store in memory, in the test's process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
from tests.http.client import Client

from moorage.config.model import Settings
from moorage.config.sections.storage import Delete, Storage
from moorage.http.app import create_app
from moorage.storage.memory import MemoryDriver
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.auth.access import Authority
    from moorage.http.options import HttpOptions
    from moorage.http.token import TokenEndpoint
    from moorage.registry.stored import StoredRegistry
    from moorage.storage.driver import Driver

DELETABLE = Settings(storage=Storage(delete=Delete(enabled=True)))


class Serve(Protocol):
    """A client of an application: by default with deletion on, over an empty store."""

    def __call__(
        self,
        settings: Settings = DELETABLE,
        *,
        driver: Driver | None = None,
        options: HttpOptions | None = None,
        authority: Authority | None = None,
        tokens: TokenEndpoint | None = None,
        secret: bytes = b"shared by all workers",
    ) -> Client: ...


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Several over one driver are what a node's workers are."""
    running: list[StoredRegistry] = []

    def make(
        settings: Settings = DELETABLE,
        *,
        driver: Driver | None = None,
        options: HttpOptions | None = None,
        authority: Authority | None = None,
        tokens: TokenEndpoint | None = None,
        secret: bytes = b"shared by all workers",
    ) -> Client:
        registry = make_registry(driver or MemoryDriver(), settings, secret)
        running.append(registry)
        return Client(create_app(registry, options or http_options(settings), authority, tokens))

    yield make
    for registry in running:
        await registry.close()


@pytest.fixture
def client(serve: Serve) -> Client:
    """A client of one that has deletion switched on and is otherwise as it comes."""
    return serve()
