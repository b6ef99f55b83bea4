"""The server of one worker: accepts connections, keeps their time, and ends them.

    listen ─► accepting ─► accept_no_more ─► stop ─► stopped
                              │                └─ idle connections close, the others after their answer
                              └─ another process accepts on the same socket; each answer ends its connection

One timer looks at the deadlines of all connections twice a second: a timer for each would cost more than the
requests.

Out of descriptors (EMFILE) accepting rests, and is resumed: a level-triggered listening socket would spin.  At the
limit of connections the one that has idled longest makes way; if none is idle, new ones wait in the backlog.
"""

from __future__ import annotations

import asyncio
import errno
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.server.http1.connection import Connection
from moorage.server.http1.file_sender import FileSender
from moorage.server.http1.options import Http1Options
from moorage.server.http1.tls_connection import TlsConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from moorage.server.http1.tls_connection import TlsProvider

__all__ = ["Server"]

_BUFFER_BYTES: Final = 512 << 10
_SMALL_BYTES: Final = 64 << 10
_ACCEPTED_AT_ONCE: Final = 16
_REST_S: Final = 0.1
_SWEEP_S: Final = 0.5
_NOTES_PER_S: Final = 5
_TRANSIENT: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ENETDOWN, errno.EHOSTUNREACH})
_HANDSHAKES: Final = 256
_log: Final = structlog.get_logger("moorage.server")


class Server:
    """Serves one ASGI application.  To be made inside the running event loop.

    `draining`: every answer ends its connection.  `stopping`: idle connections are closed as well.
    """

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[None]],
        options: Http1Options | None = None,
        tls: TlsProvider | None = None,
    ) -> None:
        self.app, self.tls = app, tls
        self.options = options or Http1Options()
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.handshakes: dict[Connection, None] = {}
        self.address: tuple[str, int | None] | None = None
        self.draining = self.stopping = False
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.small_buffer = self.buffer[:_SMALL_BYTES]
        self.plain_buffer = memoryview(bytearray(_BUFFER_BYTES if tls is not None else 0))
        self.files = FileSender()
        self._listening: list[socket.socket] = []
        self._accepting: set[socket.socket] = set()
        self._opening: dict[asyncio.Task[None], Connection] = {}
        self._empty = asyncio.Event()
        self._date = (0, b"")
        self._notes = (0, 0)
        self._sweep_s = min(_SWEEP_S, self._shortest_s() / 4)
        self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)

    def _shortest_s(self) -> float:
        options = self.options
        return max(
            0.02,
            min(
                options.header_timeout_s,
                options.idle_timeout_s,
                options.handshake_timeout_s,
                options.body_timeout_s,
                options.send_timeout_s,
            ),
        )

    # Accepting

    def listen(self, listening: socket.socket) -> None:
        """Accept on a listening socket, of which the server keeps a duplicate."""
        own = listening.dup()
        own.setblocking(False)
        name = own.getsockname()
        self.address = (name, None) if isinstance(name, str) else (name[0], name[1])
        self._listening.append(own)
        self._resume(own)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening and listening not in self._accepting and not self._is_full():
            self._accepting.add(listening)
            self.loop.add_reader(listening.fileno(), self._accept, listening)

    def _pause(self, listening: socket.socket) -> None:
        if listening in self._accepting:
            self._accepting.remove(listening)
            self.loop.remove_reader(listening.fileno())

    def _is_full(self) -> bool:
        # One that has just been made is still being opened, and counts once.
        opening = sum(each not in self.connections for each in self._opening.values())
        return len(self.connections) + opening >= self.options.connections

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            idle = self._longest_idle() if (full := self._is_full()) else None
            if full and idle is None:
                self._pause(listening)
                return
            try:
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue
                _log.error("cannot accept a connection", cause=error.strerror)
                self._pause(listening)
                self.loop.call_later(_REST_S, self._resume, listening)
                return
            if idle is not None:
                idle.close()
            sock.setblocking(False)
            client = (name[0], name[1]) if isinstance(name, tuple) else None
            made = Connection(self, sock, client) if self.tls is None else TlsConnection(self, sock, client)
            task = self.loop.create_task(self._open(made, sock))
            self._opening[task] = made
            task.add_done_callback(self._opened)

    async def _open(self, made: Connection, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: made, sock)
        except OSError:
            sock.close()
            return
        if self.stopping and made.is_idle:
            # Accepted in the turn in which the server was stopped: its request may be here already.
            self.loop.call_later(_REST_S, self._close_if_idle, made)

    def _opened(self, task: asyncio.Task[None]) -> None:
        del self._opening[task]
        self._note_emptiness()
        self._resume_all()

    def _note_emptiness(self) -> None:
        if not self.connections and not self._opening:
            self._empty.set()

    def _longest_idle(self) -> Connection | None:
        """Return the connection that makes way for a new one."""
        return min((each for each in self.connections if each.is_idle), key=_deadline, default=None)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self.handshakes.pop(connection, None)
        self._note_emptiness()
        self._resume_all()

    def _resume_all(self) -> None:
        if len(self._accepting) < len(self._listening):
            for listening in self._listening:
                self._resume(listening)

    # Ending

    def accept_no_more(self) -> None:
        """Leave new connections to the other processes that share the socket; those accepted go on."""
        for listening in self._listening:
            self._pause(listening)
            listening.close()
        self._listening = []

    def stop(self) -> None:
        """Accept no more; close idle connections now and the others after the answer they wait for."""
        self.accept_no_more()
        self.draining = self.stopping = True
        # What has arrived by now is read in the next turn of the loop.
        self.loop.call_later(0.01, self._close_idle)

    def _close_idle(self) -> None:
        for connection in list(self.connections):
            self._close_if_idle(connection)

    def _close_if_idle(self, connection: Connection) -> None:
        if connection.is_idle and not connection.lost:
            connection.close()

    async def stopped(self) -> None:
        """Return when the last connection has ended, after `stop`."""
        await self.deserted()
        self._sweeper.cancel()

    async def deserted(self) -> None:
        """Return when there is no connection."""
        while self.connections or self._opening:
            self._empty.clear()
            await self._empty.wait()

    # For connections

    def date(self) -> bytes:
        """Return the Date line of an answer."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, b"date: %s\r\n" % formatdate(now, usegmt=True).encode())
        return self._date[1]

    def begin_handshake(self, connection: Connection) -> None:
        """Note a TLS handshake; the oldest one makes way when there are too many."""
        if len(self.handshakes) >= _HANDSHAKES:
            oldest = next(iter(self.handshakes))
            del self.handshakes[oldest]
            self.note("too many TLS handshakes at once: the oldest one is broken off", oldest)
            oldest.abort()
        self.handshakes[connection] = None

    def refused(self, connection: Connection, status: int, reason: str) -> None:
        """Log a request that could not be read."""
        self.note("refused a request that cannot be read", connection, status=status, reason=reason)

    def note(self, text: str, connection: Connection, **fields: object) -> None:
        """Log what a client did wrong, at most a few times a second: anybody can cause it."""
        self._note_omissions()
        second, count = self._notes
        self._notes = (second, count + 1)
        if count < _NOTES_PER_S:
            remote = "" if connection.client is None else connection.client[0]
            _log.info(text, remote=remote, **fields)

    def _note_omissions(self) -> None:
        """Once a second is over, log how many lines of it were left out."""
        second = int(time.monotonic())
        before, count = self._notes
        if second == before:
            return
        self._notes = (second, 0)
        if count > _NOTES_PER_S:
            _log.info("similar lines were left out", lines=count - _NOTES_PER_S)

    def _sweep(self) -> None:
        """Look at the deadlines."""
        now = self.loop.time()
        self._note_omissions()
        for connection in [each for each in self.connections if each.deadline <= now]:
            try:
                connection.expired(now)
            except Exception:  # noqa: BLE001  a bug of ours: the other connections need the timer
                _log.exception("unexpected error")
                connection.abort()
        self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)


def _deadline(connection: Connection) -> float:
    return connection.deadline
