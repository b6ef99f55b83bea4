"""Interfaces between the modules of the HTTP/1.1 server; each of them is typed without importing the others.

Server  ◄── ServerContext ──  Connection  ◄── ResponseConnection ──  Exchange
   └────── ServedConnection ─────►│
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from moorage.server.http1.file_sender import Sending

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Awaitable, Callable

    from moorage.server.http1.file_sender import FileJob, FileSender
    from moorage.server.http1.options import Http1Options

__all__ = ["ResponseConnection", "ServedConnection", "ServerContext", "TlsProvider"]


class TlsProvider(Protocol):
    """Chooses TLS contexts.

    `inspects`: they depend on the ClientHello.  `answers_challenges`: `acme-tls/1` is an offered protocol.
    """

    @property
    def inspects(self) -> bool: ...

    @property
    def answers_challenges(self) -> bool: ...

    def context(self, host: str) -> ssl.SSLContext | None:
        """Return the context for a requested host name, "" for none; None while there is no certificate."""

    async def challenge(self, host: str) -> ssl.SSLContext | None:
        """Return the context that answers `acme-tls/1` for a host; None without a pending challenge.

        Raises TimeoutError where the challenges cannot be read in time, OSError where no thread can be started.
        """


class ServedConnection(Protocol):
    """A connection as `Server` uses it: timeouts, limits, shutdown.

    `deadline` is the time, by the loop's clock, at which `expired` is called; infinite for never.
    """

    client: tuple[str, int] | None
    deadline: float
    lost: bool

    @property
    def is_idle(self) -> bool: ...

    @property
    def idle_since(self) -> float: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def expired(self, now: float) -> None: ...


class ServerContext(Protocol):
    """The server as its connections use it: shared state, registration, rate-limited logging.

    `draining`: every response closes its connection.  `stopping`: idle connections are closed as well.
    """

    app: Callable[[Any, Any, Any], Awaitable[None]]
    tls: TlsProvider | None
    options: Http1Options
    loop: asyncio.AbstractEventLoop
    address: tuple[str, int | None] | None
    draining: bool
    stopping: bool
    buffer: memoryview
    small_buffer: memoryview
    plain_buffer: memoryview
    files: FileSender

    def date(self) -> bytes: ...

    def connection_opened(self, connection: ServedConnection) -> None: ...

    def connection_closed(self, connection: ServedConnection) -> None: ...

    def handshake_started(self, connection: ServedConnection) -> None: ...

    def handshake_ended(self, connection: ServedConnection) -> None: ...

    def log_client_error(self, text: str, connection: ServedConnection, **fields: object) -> None: ...


class ResponseConnection(Sending, Protocol):
    """A connection as `Exchange` uses it: the request's body in, the response out.

    `lost_unsent` are bytes that were written but not sent when the connection was lost.
    """

    scheme: str
    server: ServerContext
    client: tuple[str, int] | None
    lost_unsent: int
    tls_subject: str
    writing_paused: bool

    def write(self, *data: bytes) -> None: ...

    async def drained(self) -> None: ...

    async def send_file(self, job: FileJob, head: bytes) -> None: ...

    def body_consumed(self) -> None: ...

    def body_discarded(self) -> None: ...

    def unread_is_small(self) -> bool: ...

    def response_sent(self, *, keep: bool) -> None: ...

    def abort(self) -> None: ...
