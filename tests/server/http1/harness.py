"""A server of the test's own event loop with `Application`, and exchanges of raw bytes with it.

Server and client share one loop: after `turns()` the server has read what the client sent, so fragments arrive
apart without any waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.server.http1.application import Application
from tests.server.http1.peer import LIMIT_S, Peer, read_answers, turns

from moorage.server.http1 import Http1Options, Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.server.http1.application import Seen
    from tests.server.http1.peer import Answer

    from moorage.server.http1.interfaces import TlsProvider

__all__ = ["Outcome", "Running", "exchange", "get", "running", "until"]

_CONCURRENT_BYTES = 32 << 10


@dataclass(frozen=True)
class Outcome:
    """The observable result of the bytes of one connection."""

    answers: tuple[Answer, ...]
    seen: tuple[Seen, ...]
    begun: tuple[bytes, ...]
    reset: bool

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def meaning(self) -> object:
        """Everything but the wording of refusals, the times, and whether there was time for a 100."""
        return [(answer.status, answer.whole) for answer in self.answers], self.seen


@dataclass
class Running:
    """A server that listens on `port`; `failures` are exceptions that reached the event loop."""

    server: Server
    app: Application
    port: int
    failures: list[dict[str, Any]]

    async def connect(self, *, receive_bytes: int = 0) -> Peer:
        return await Peer.connect(self.port, receive_bytes=receive_bytes)


@contextlib.asynccontextmanager
async def running(
    app: Application | None = None, *, tls: TlsProvider | None = None, **options: Any
) -> AsyncIterator[Running]:
    """Serve until the end of the block, then end every connection; `options` are those of Http1Options."""
    loop = asyncio.get_running_loop()
    app = app or Application()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    server = Server(app, Http1Options(**options), tls)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        server.listen(listening)
        port = listening.getsockname()[1]
    try:
        yield Running(server, app, port, failures)
    finally:
        app.gate.set()
        server.stop()
        for connection in list(server.connections):
            connection.abort()
        async with asyncio.timeout(LIMIT_S):
            await server.wait_stopped()
    assert not failures, failures


async def exchange(served: Running, *pieces: bytes, half_close: bool = True) -> Outcome:
    """Send the pieces so that the server reads each of them apart, shut down the sending side, read to the end."""
    app = served.app
    begun, seen = len(app.begun), len(app.seen)
    async with await served.connect() as peer:
        together = sum(map(len, pieces)) > _CONCURRENT_BYTES
        reader = asyncio.ensure_future(peer.read_to_end()) if together else None
        for index, piece in enumerate(pieces):
            if index:
                await turns()
            if not await peer.send(piece):
                break
        if half_close:
            if len(pieces) > 1:
                await turns()
            peer.half_close()
        data = await (reader or peer.read_to_end())
    requests = tuple(app.seen[seen:])
    answers = read_answers(data, [request.method for request in requests])
    return Outcome(tuple(answers), requests, tuple(app.begun[begun:]), peer.reset)


async def get(served: Running, target: str = "/") -> Answer:
    """One GET on a connection of its own."""
    async with await served.connect() as peer:
        await peer.send(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        (answer,) = read_answers(await peer.read_to_end())
    return answer


async def until(reached: Callable[[], object], text: str) -> None:
    """Turn the event loop until `reached`; AssertionError after the limit."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LIMIT_S
    while not reached():
        assert loop.time() < deadline, f"waited {LIMIT_S:g} s for {text}"
        await asyncio.sleep(0.002)
