"""Server process for measurements: `Application` on four ports, in a process with the settings of a worker.

    python -m tests.server.http1.measured CERTIFICATE KEY

The first line of standard output has the ports as JSON; the process ends with its standard input.

    plain, tls                     the default timeouts, except that connections may idle for ten minutes
    impatient, impatient_tls       timeouts of a second or less, for clients that stall

/state has, beside descriptors, tasks and memory of the process, what its connections do; /open and /shut set and
clear the gate of `Application`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvloop
from tests.server import certs
from tests.server.http1.application import Application, reply, state
from tests.server.http1.peer import LIMIT_S, Peer
from tests.server.http1.tls_peer import TlsPeer

from moorage.server.allocator import keep_buffers
from moorage.server.http1 import Http1Options, Server
from moorage.server.http1.connection import Connection
from moorage.server.processes.worker import _dump_tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


__all__ = ["Measured", "State", "measured"]

_ROOT: Final = Path(__file__).resolve().parents[3]
_CONNECTIONS: Final = 4096
_LIMIT_S: Final = 60.0
_IMPATIENT: Final = Http1Options(
    header_timeout_s=0.5,
    idle_timeout_s=1.0,
    handshake_timeout_s=0.5,
    body_timeout_s=1.0,
    send_timeout_s=1.0,
    least_rate=10_000,
)


@dataclass(frozen=True)
class State:
    """Of the process: `descriptors`, `tasks`, `resident_kib` and how much of it is `anonymous_kib`, `threads`.

    Of its connections: how many, and how many of them are idle, do not read, and cannot write; how many bytes they
    have `sent`; requests that were `begun` and are `running`.
    """

    descriptors: int
    tasks: int
    resident_kib: int
    anonymous_kib: int
    threads: int
    connections: int
    idle: int
    reading_paused: int
    writing_paused: int
    sending_files: int
    sent: int
    begun: int
    running: int


@dataclass
class Measured:
    """The running process, seen by the tests."""

    process: subprocess.Popen[str]
    ports: dict[str, int]
    context: ssl.SSLContext

    async def connect(self, *, tls: bool, receive_bytes: int = 0) -> Peer:
        if tls:
            return await TlsPeer.open(self.ports["tls"], self.context, receive_bytes=receive_bytes)
        return await Peer.connect(self.ports["plain"], receive_bytes=receive_bytes)

    async def ask(self, target: str) -> bytes:
        """Return the body of one answer, by a connection of its own."""
        async with await Peer.connect(self.ports["plain"]) as peer:
            await peer.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            answer = await peer.read_answer()
        assert answer.status == 200, answer
        return answer.body

    async def state(self) -> State:
        return State(**json.loads(await self.ask("/state")))

    async def until(self, reached: Callable[[State], object], text: str) -> State:
        """Ask for the state until `reached`; AssertionError after the limit."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LIMIT_S
        while not reached(found := await self.state()):
            assert loop.time() < deadline, f"waited {_LIMIT_S:g} s for {text}: {found}"
            await asyncio.sleep(0.02)
        return found


@contextlib.asynccontextmanager
async def measured(folder: Path) -> AsyncIterator[Measured]:
    """Run the process until the end of the block."""
    authority = certs.root()
    files = authority.issue("localhost").write(folder, "server")
    with (folder / "measured.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220  it is started at once
            [sys.executable, "-m", "tests.server.http1.measured", files["certificate"], files["key"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=_ROOT,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        assert line, (folder / "measured.log").read_text()
        yield Measured(process, json.loads(line), ssl.create_default_context(cadata=authority.pem.decode()))
    finally:
        process.stdin.close()
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LIMIT_S)
        process.kill()
        process.wait()


# In the process itself


class _Provider:
    def __init__(self, context: ssl.SSLContext, *, inspects: bool) -> None:
        self._context = context
        self.inspects = self.answers_challenges = inspects

    def context(self, host: str = "") -> ssl.SSLContext | None:
        del host
        return self._context

    async def challenge(self, host: str) -> ssl.SSLContext | None:
        del host
        return None


@dataclass
class _Application(Application):
    """`requests` counts; the lists of `Application` are emptied, since they would grow."""

    servers: list[Server] = field(default_factory=list)
    requests: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            for each in (self.begun, self.seen, self.left, self.errors):
                each.clear()

    async def on_open(self, rest: str, scope: Any, receive: Any, send: Any) -> None:
        self.gate.set()
        await reply(send, b"open")

    async def on_shut(self, rest: str, scope: Any, receive: Any, send: Any) -> None:
        self.gate.clear()
        await reply(send, b"shut")

    async def on_state(self, rest: str, scope: Any, receive: Any, send: Any) -> None:
        gc.collect()
        # Without the one of this request.
        connections = [
            each for server in self.servers for each in server.connections if isinstance(each, Connection)
        ]
        found = {
            **state(),
            "threads": threading.active_count(),
            "connections": len(connections) - 1,
            "idle": sum(each.is_idle for each in connections),
            "reading_paused": sum(not each._reading for each in connections),
            "writing_paused": sum(each.writing_paused for each in connections),
            "sending_files": sum(_file_sent(each) > 0 for each in connections),
            "sent": sum(each.sent() for each in connections),
            "begun": self.requests - 1,
            "running": self.running - 1,
        }
        await reply(send, json.dumps(found).encode())


def _file_sent(connection: Connection) -> int:
    exchange = connection._exchange
    return 0 if exchange is None else exchange.file_sent


async def _serve(certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    app = _Application(keep_bodies=False)
    usual = Http1Options(connections=_CONNECTIONS, idle_timeout_s=600.0)
    ports = {}
    for name, options, tls in (
        ("plain", usual, None),
        ("tls", usual, _Provider(context, inspects=False)),
        ("impatient", _IMPATIENT, None),
        ("impatient_tls", _IMPATIENT, _Provider(context, inspects=True)),
    ):
        server = Server(app, options, tls)
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
            server.listen(listening)
            ports[name] = listening.getsockname()[1]
        app.servers.append(server)
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGQUIT, _dump_tasks)
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    sys.stdout.write(f"{json.dumps(ports)}\n")
    sys.stdout.flush()
    await ended.wait()
    loop.remove_reader(0)


def _main() -> None:
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    keep_buffers()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(*sys.argv[1:3]))


if __name__ == "__main__":
    _main()
