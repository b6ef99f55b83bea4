"""The tests of the HTTP/1.1 server run on uvloop, as the server does, and log plainly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import structlog
import uvloop
from tests.server.http1.fronts import FRONTS, front_end
from tests.server.http1.harness import running

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from tests.server.http1.fronts import Front
    from tests.server.http1.harness import Running


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Running]:
    """The back end of all front ends of a module."""
    async with running() as served:
        yield served


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, served: Running
) -> Iterator[Front]:
    """nginx, HAProxy or Apache in front of `served`, shared by the tests of a module."""
    with front_end(request.param, tmp_path_factory.mktemp(request.param), served.port) as front:
        yield front


@pytest.fixture(autouse=True)
def _plain_logs(_logs_as_they_were: None) -> None:
    """Log tracebacks as text: those of structlog's default take a tenth of a second each, while clients wait."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
