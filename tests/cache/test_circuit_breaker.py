"""Circuit breaker: a server that is dead, slow or in an unexpected state."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.redis_servers import until

from moorage.cache.circuit_breaker import CircuitBreaker, CircuitOpen


class Refused(Exception):
    """The server itself refuses a call."""


class Server:
    """Answers, or fails as a test demands; `pauses` are those of the circuit breaker, in seconds."""

    def __init__(self) -> None:
        self.calls = self.pings = 0
        self.trouble: Exception | None = None
        self.silent = False
        self.may_wake = asyncio.Event()
        self.came_back = asyncio.Event()
        self.pauses: list[float] = []
        self.now = 0.0

    async def call(self) -> str:
        self.calls += 1
        return await self.answer()

    async def ping(self) -> str:
        self.pings += 1
        return await self.answer()

    async def answer(self) -> str:
        if self.silent:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return "yes"

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        await self.may_wake.wait()
        self.may_wake.clear()

    async def back(self) -> None:
        self.came_back.set()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def breaker(server: Server) -> CircuitBreaker:
    return CircuitBreaker(
        server.ping,
        server="redis",
        refusals=Refused,
        concurrency=2,
        timeout_s=0.01,
        ping_s=0.01,
        sleep=server.sleep,
        clock=lambda: server.now,
        on_close=server.back,
    )


async def refused(breaker: CircuitBreaker, server: Server) -> str:
    with pytest.raises(CircuitOpen) as caught:
        await breaker.call(server.call)
    return str(caught.value)


async def test_a_result_is_returned(breaker: CircuitBreaker, server: Server) -> None:
    assert await breaker.call(server.call) == "yes"
    assert not breaker.is_open


async def test_after_a_broken_connection_calls_fail_until_a_ping_is_answered(
    breaker: CircuitBreaker, server: Server
) -> None:
    """A dead Redis must not cost every request a connection attempt."""
    server.trouble = ConnectionError("refused")
    with capture_logs() as logs:
        for _ in range(5):
            await refused(breaker, server)
        assert server.calls == 1
        server.may_wake.set()
        await until(lambda: server.pings == 1)
        assert breaker.is_open

        server.trouble = None
        server.may_wake.set()
        await server.came_back.wait()
        assert await breaker.call(server.call) == "yes"
    assert [entry["log_level"] for entry in logs if entry["log_level"] != "debug"] == ["warning", "info"]
    await breaker.close()


async def test_the_pause_doubles_if_the_circuit_opens_again_soon(breaker: CircuitBreaker, server: Server) -> None:
    """One dead node of a cluster must not fill the log with its comings and goings."""
    for back_for in (0, 0, 0, 0, 0, 70, 0):
        server.trouble = ConnectionError("one node")
        await refused(breaker, server)
        server.trouble = None
        server.may_wake.set()
        await server.came_back.wait()
        server.came_back.clear()
        server.now += back_for
    assert server.pauses == [5, 10, 20, 40, 60, 60, 5]


async def test_the_circuit_opens_after_three_slow_calls_in_a_row(breaker: CircuitBreaker, server: Server) -> None:
    """One slow answer is an accident of the network, three are a state."""
    server.silent = True
    for _ in range(2):
        assert "no answer" in await refused(breaker, server)
        assert not breaker.is_open
    await refused(breaker, server)
    assert breaker.is_open
    await refused(breaker, server)
    assert server.calls == 3
    await breaker.close()


async def test_an_answer_resets_the_count_of_slow_calls(breaker: CircuitBreaker, server: Server) -> None:
    for _ in range(3):
        server.silent = True
        await refused(breaker, server)
        await refused(breaker, server)
        server.silent = False
        assert await breaker.call(server.call) == "yes"
    assert not breaker.is_open


async def test_the_wait_for_a_slot_counts(breaker: CircuitBreaker, server: Server) -> None:
    """A hundred requests at a slow Redis wait as long as one does, not a hundred times."""
    server.silent = True
    holding = [asyncio.create_task(breaker.call(server.call, timeout_s=3600)) for _ in range(2)]
    await until(lambda: server.calls == 2)
    for _ in range(2):
        await refused(breaker, server)
    assert server.calls == 2
    for each in holding:
        each.cancel()
    await asyncio.wait(holding)
    await breaker.close()


async def test_a_refusal_is_logged_once_and_leaves_the_circuit_closed(
    breaker: CircuitBreaker, server: Server
) -> None:
    """NOPERM for one command must not switch off what is permitted, nor fill the log."""
    server.trouble = Refused("NOPERM this user has no permissions")
    with capture_logs() as logs:
        for _ in range(3):
            await refused(breaker, server)
    assert len(logs) == 1
    assert not breaker.is_open
    server.trouble = None
    assert await breaker.call(server.call) == "yes"


async def test_a_cancelled_call_does_not_count(breaker: CircuitBreaker, server: Server) -> None:
    server.silent = True
    request = asyncio.create_task(breaker.call(server.call, timeout_s=60))
    await until(lambda: server.calls == 1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    server.silent = False
    assert await breaker.call(server.call) == "yes"


async def test_close_ends_the_pings(breaker: CircuitBreaker, server: Server) -> None:
    server.trouble = OSError("gone")
    await refused(breaker, server)
    await breaker.close()
    await refused(breaker, server)
    assert (server.calls, server.pings) == (1, 0)
