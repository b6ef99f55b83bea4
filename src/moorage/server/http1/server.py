"""HTTP/1.1 server of one worker: accepts connections, enforces timeouts, shuts down gracefully.

    listen ─► accepting ─► stop_accepting ─► stop ─► wait_stopped
                              │                └─ idle connections are closed, the others after their response
                              └─ another process accepts on the same socket; each response closes its connection

One timer checks the deadlines of all connections twice a second: a timer per connection would cost more than the
requests.

At the connection limit, and out of file descriptors (EMFILE), the longest idle connection is closed for a new one,
unless it has only just become idle: the request of a new connection may be on its way.  If there is none, new ones
wait in the listen backlog, and the timer tries again: a level-triggered listening socket would spin.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
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

    from moorage.server.http1.interfaces import ServedConnection, TlsProvider

__all__ = ["Server"]

_BUFFER_BYTES: Final = 512 << 10
_SMALL_BYTES: Final = 64 << 10
_ACCEPTS_PER_CALL: Final = 16
_FINAL_ACCEPTS: Final = 128
"""As many as empty a full listen backlog (`listen.BACKLOG`)."""

_RESUME_ACCEPT_S: Final = 0.1
_SWEEP_S: Final = 0.5
_LOG_LINES_PER_S: Final = 5
_TRANSIENT: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.ENETDOWN, errno.EHOSTUNREACH})
_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
_ACCEPT_ERROR_LOG_S: Final = 10.0
_IDLE_GRACE_S: Final = 0.5
_HANDSHAKES: Final = 256
_log: Final = structlog.get_logger("moorage.server")


class Server:
    """Serves one ASGI application.  Create it inside the running event loop.

    `draining`: every response closes its connection.  `stopping`: idle connections are closed as well.
    """

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Awaitable[None]],
        options: Http1Options | None = None,
        tls: TlsProvider | None = None,
    ) -> None:
        self.app = app
        self.tls = tls
        self.options = options or Http1Options()
        self.loop = asyncio.get_running_loop()
        self.connections: set[ServedConnection] = set()
        self.handshakes: dict[ServedConnection, None] = {}
        self.address: tuple[str, int | None] | None = None
        self.draining = False
        self.stopping = False
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.small_buffer = self.buffer[:_SMALL_BYTES]
        # For one read, and what the BIO held before it.
        self.plain_buffer = memoryview(bytearray(2 * _BUFFER_BYTES if tls is not None else 0))
        self.files = FileSender()
        self._listening: list[socket.socket] = []
        self._accepting: set[socket.socket] = set()
        self._opening: dict[asyncio.Task[None], Connection] = {}
        self._empty = asyncio.Event()
        self._date = (0, b"")
        self._logged = (0, 0)
        self._accept_error_logged_at = 0.0
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
        """Accept connections on a listening socket; the server keeps a duplicate of it."""
        own = listening.dup()
        own.setblocking(False)
        name = own.getsockname()
        self.address = (name, None) if isinstance(name, str) else (name[0], name[1])
        self._listening.append(own)
        self._resume(own)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._listening and listening not in self._accepting:
            self._accepting.add(listening)
            self.loop.add_reader(listening.fileno(), self._accept, listening)

    def _pause(self, listening: socket.socket) -> None:
        if listening in self._accepting:
            self._accepting.remove(listening)
            self.loop.remove_reader(listening.fileno())

    def _is_full(self) -> bool:
        # A connection that was just made is still in `_opening`; it counts once.
        opening = sum(each not in self.connections for each in self._opening.values())
        return len(self.connections) + opening >= self.options.connections

    def _accept(self, listening: socket.socket) -> bool:
        """Accept some connections; return whether more may be waiting and can be accepted at once."""
        idle: list[ServedConnection] | None = None
        for _ in range(_ACCEPTS_PER_CALL):
            if full := self._is_full():
                idle = self._longest_idle() if idle is None else idle
                if not idle:
                    self._pause(listening)
                    return False
            try:
                sock, name = listening.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue
                self._accept_failed(listening, error)
                return False
            if full and idle:
                idle.pop().close()
            sock.setblocking(False)
            client = (name[0], name[1]) if isinstance(name, tuple) else None
            made = Connection(self, sock, client) if self.tls is None else TlsConnection(self, sock, client)
            task = self.loop.create_task(self._open(made, sock))
            self._opening[task] = made
            task.add_done_callback(self._open_done)
        return True

    def _accept_failed(self, listening: socket.socket, error: OSError) -> None:
        """Pause accepting, close an idle connection if descriptors are used up, and log it at a bounded rate."""
        now = self.loop.time()
        if now >= self._accept_error_logged_at:
            self._accept_error_logged_at = now + _ACCEPT_ERROR_LOG_S
            _log.error("cannot accept a connection", cause=error.strerror)
        if error.errno in _DESCRIPTORS and (idle := self._longest_idle()):
            idle.pop().close()
        self._pause(listening)
        self.loop.call_later(_RESUME_ACCEPT_S, self._resume, listening)

    async def _open(self, made: Connection, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: made, sock)
        except OSError:
            sock.close()
            return
        if self.stopping and made.is_idle:
            # Accepted in the loop iteration in which the server was stopped: its request may have arrived already.
            self.loop.call_later(_RESUME_ACCEPT_S, self._close_if_idle, made)

    def _open_done(self, task: asyncio.Task[None]) -> None:
        del self._opening[task]
        self._update_empty()
        self._resume_all()

    def _update_empty(self) -> None:
        if not self.connections and not self._opening:
            self._empty.set()

    def _longest_idle(self) -> list[ServedConnection]:
        """Return idle connections to close for new ones, the longest idle one last."""
        before = self.loop.time() - _IDLE_GRACE_S
        idle = (each for each in self.connections if each.is_idle and each.idle_since <= before)
        return heapq.nsmallest(_ACCEPTS_PER_CALL, idle, key=_idle_since)[::-1]

    def connection_opened(self, connection: ServedConnection) -> None:
        """Register a connection."""
        self.connections.add(connection)

    def connection_closed(self, connection: ServedConnection) -> None:
        """Remove a closed connection."""
        self.connections.discard(connection)
        self.handshakes.pop(connection, None)
        self._update_empty()
        self._resume_all()

    def _resume_all(self) -> None:
        if not self._is_full():
            self._retry_accepting()

    def _retry_accepting(self) -> None:
        """Accept again, if only to see that there is no room."""
        if len(self._accepting) < len(self._listening):
            for listening in self._listening:
                self._resume(listening)

    # Shutdown

    def stop_accepting(self) -> None:
        """Stop accepting: other processes on the socket take new connections; accepted ones are still served."""
        for listening in self._listening:
            self._pause(listening)
            listening.close()
        self._listening = []

    def stop(self) -> None:
        """Stop accepting; close idle connections now and the others after their pending response.

        Connections that wait in the queue are accepted first: closing the socket would reset them.
        """
        for listening in list(self._accepting):
            for _ in range(_FINAL_ACCEPTS):
                if not self._accept(listening):
                    break
        self.stop_accepting()
        self.draining = self.stopping = True
        # Data that has arrived by now is read in the next iteration of the loop.
        self.loop.call_later(0.01, self._close_idle)

    def _close_idle(self) -> None:
        for connection in list(self.connections):
            self._close_if_idle(connection)

    def _close_if_idle(self, connection: ServedConnection) -> None:
        if connection.is_idle and not connection.lost:
            connection.close()

    async def wait_stopped(self) -> None:
        """Wait until the last connection is closed, after `stop`."""
        await self.wait_until_empty()
        self._sweeper.cancel()

    async def wait_until_empty(self) -> None:
        """Wait until no connection is open."""
        while self.connections or self._opening:
            self._empty.clear()
            await self._empty.wait()

    # For connections

    def date(self) -> bytes:
        """Return the Date header line of a response."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, b"date: %s\r\n" % formatdate(now, usegmt=True).encode())
        return self._date[1]

    def handshake_started(self, connection: ServedConnection) -> None:
        """Register a TLS handshake; abort the oldest one when there are too many."""
        if len(self.handshakes) >= _HANDSHAKES:
            oldest = next(iter(self.handshakes))
            del self.handshakes[oldest]
            self.log_client_error("too many concurrent TLS handshakes; the oldest one is aborted", oldest)
            oldest.abort()
        self.handshakes[connection] = None

    def handshake_ended(self, connection: ServedConnection) -> None:
        """Remove a TLS handshake that has ended."""
        self.handshakes.pop(connection, None)

    def log_client_error(self, text: str, connection: ServedConnection, **fields: object) -> None:
        """Log a client error, rate-limited: any client can cause it."""
        self._log_omissions()
        second, count = self._logged
        self._logged = (second, count + 1)
        if count < _LOG_LINES_PER_S:
            remote = "" if connection.client is None else connection.client[0]
            _log.info(text, remote=remote, **fields)

    def _log_omissions(self) -> None:
        """Log how many lines of the last second were left out, once it is over."""
        second = int(time.monotonic())
        before, count = self._logged
        if second == before:
            return
        self._logged = (second, 0)
        if count > _LOG_LINES_PER_S:
            _log.info("similar lines were left out", lines=count - _LOG_LINES_PER_S)

    def _sweep(self) -> None:
        """Expire the connections whose deadline has passed."""
        now = self.loop.time()
        self._log_omissions()
        for connection in [each for each in self.connections if each.deadline <= now]:
            try:
                connection.expired(now)
            except Exception:  # noqa: BLE001  a bug: the timer is needed by the other connections
                _log.exception("unexpected error")
                connection.abort()
        self._retry_accepting()
        self._sweeper = self.loop.call_later(self._sweep_s, self._sweep)


def _idle_since(connection: ServedConnection) -> float:
    return connection.idle_since
