"""A server that is dead, slow or odd: nobody waits for it twice, nobody sees its errors, and it is found again."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.redis_servers import until

from moorage.cache.circuit_breaker import CircuitBreaker, CircuitOpen


class Refused(Exception):
    """The server says no."""


class Server:
    """Answers, or does what a test wants; `naps` are the pauses that the guard made."""

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
def guard(server: Server) -> CircuitBreaker:
    return CircuitBreaker(
        server.ping,
        what="redis",
        refusals=Refused,
        at_once=2,
        patience_s=0.01,
        ping_s=0.01,
        sleep=server.sleep,
        clock=lambda: server.now,
        returned=server.back,
    )


async def refused(guard: CircuitBreaker, server: Server) -> str:
    with pytest.raises(CircuitOpen) as caught:
        await guard.ask(server.call)
    return str(caught.value)


async def test_an_answer_is_passed_on(guard: CircuitBreaker, server: Server) -> None:
    assert await guard.ask(server.call) == "yes"
    assert not guard.away


async def test_after_a_broken_connection_nobody_tries_until_a_ping_is_answered(
    guard: CircuitBreaker, server: Server
) -> None:
    """A dead Redis must not cost every request a connection attempt."""
    server.trouble = ConnectionError("refused")
    with capture_logs() as logs:
        for _ in range(5):
            await refused(guard, server)
        assert server.calls == 1
        server.may_wake.set()
        await until(lambda: server.pings == 1)
        assert guard.away

        server.trouble = None
        server.may_wake.set()
        await server.came_back.wait()
        assert await guard.ask(server.call) == "yes"
    assert [entry["log_level"] for entry in logs if entry["log_level"] != "debug"] == ["warning", "info"]
    await guard.close()


async def test_who_is_away_again_and_again_is_left_alone_for_longer(guard: CircuitBreaker, server: Server) -> None:
    """One dead node of a cluster must not fill the log with its comings and goings."""
    for back_for in (0, 0, 0, 0, 0, 70, 0):
        server.trouble = ConnectionError("one node")
        await refused(guard, server)
        server.trouble = None
        server.may_wake.set()
        await server.came_back.wait()
        server.came_back.clear()
        server.now += back_for
    assert server.pauses == [5, 10, 20, 40, 60, 60, 5]


async def test_a_slow_server_is_left_alone_after_three_calls(guard: CircuitBreaker, server: Server) -> None:
    """One slow answer is an accident of the network, three are a state."""
    server.silent = True
    for _ in range(2):
        assert "no answer" in await refused(guard, server)
        assert not guard.away
    await refused(guard, server)
    assert guard.away
    await refused(guard, server)
    assert server.calls == 3
    await guard.close()


async def test_an_answer_between_makes_slow_ones_accidents(guard: CircuitBreaker, server: Server) -> None:
    for _ in range(3):
        server.silent = True
        await refused(guard, server)
        await refused(guard, server)
        server.silent = False
        assert await guard.ask(server.call) == "yes"
    assert not guard.away


async def test_waiting_for_a_slot_ends_as_well(guard: CircuitBreaker, server: Server) -> None:
    """A hundred requests at a slow Redis wait as long as one does, not a hundred times."""
    server.silent = True
    holding = [asyncio.create_task(guard.ask(server.call, patience_s=3600)) for _ in range(2)]
    await until(lambda: server.calls == 2)
    for _ in range(2):
        await refused(guard, server)
    assert server.calls == 2
    for each in holding:
        each.cancel()
    await asyncio.wait(holding)
    await guard.close()


async def test_a_refusal_is_told_once_and_the_server_stays(guard: CircuitBreaker, server: Server) -> None:
    """NOPERM for one command must not switch off what is permitted, nor fill the log."""
    server.trouble = Refused("NOPERM this user has no permissions")
    with capture_logs() as logs:
        for _ in range(3):
            await refused(guard, server)
    assert len(logs) == 1
    assert not guard.away
    server.trouble = None
    assert await guard.ask(server.call) == "yes"


async def test_a_client_that_leaves_is_no_trouble_of_the_server(guard: CircuitBreaker, server: Server) -> None:
    server.silent = True
    request = asyncio.create_task(guard.ask(server.call, patience_s=60))
    await until(lambda: server.calls == 1)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    server.silent = False
    assert await guard.ask(server.call) == "yes"


async def test_closing_ends_the_watch(guard: CircuitBreaker, server: Server) -> None:
    server.trouble = OSError("gone")
    await refused(guard, server)
    await guard.close()
    await refused(guard, server)
    assert (server.calls, server.pings) == (1, 0)
