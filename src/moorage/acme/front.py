"""The registry's own sockets, while its workers leave new connections to this process: TLS-ALPN-01.

    client ─► first message ─┬─ asks for acme-tls/1 ─► answered here, with what the store has for the host
                             ├─ anything else, workers there ─► passed on to one, byte for byte
                             └─ anything else, no certificate yet ─► refused with an alert

An authority asks on port 443, which belongs to Granian, and Granian answers nothing but HTTP.  So for the seconds
in which an authority asks, the workers stop accepting and this process accepts in their place.  Nobody is turned
away: other connections are passed on, for as long as they last.  What the workers have accepted before is theirs.

The rule not to miss: `drain` after the workers have begun to accept again.  A worker's event loop learns only of
connections that come from then on; what waited in the queue before is ours to take.

Source: RFC 8737.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from moorage.acme import hello
from moorage.acme.hello import ACME_TLS, Hello, NotTls

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator
    from pathlib import Path

__all__ = ["Front"]

_PATIENCE_S: Final = 10.0
_PIECE_BYTES: Final = 256 << 10
_AT_A_TIME: Final = 64
_REST_S: Final = 0.1
_KEEP_ALIVE_S: Final = 120
_log: Final = structlog.get_logger("moorage.acme")


class Front:
    """`answer`: where the certificate for a host lies that answers TLS-ALPN-01.

    `relay` is the port where workers listen, on 127.0.0.1; `note` is told which client a connection to it speaks
    for: its own port, then the client's address, or None when it has ended.
    """

    def __init__(
        self,
        answer: Callable[[str], Path | None],
        relay: int,
        note: Callable[[int, tuple[str, int] | None], None],
    ) -> None:
        self._answer = answer
        self._relay, self._note = relay, note
        self._sockets: list[socket.socket] = []
        self._relaying = False
        self._told = False
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        return bool(self._sockets)

    @property
    def connections(self) -> int:
        """How many are being answered or passed on."""
        return len(self._connections)

    def open(self, sockets: Iterable[socket.socket], *, relaying: bool) -> None:
        """Accept on these sockets instead of any before.  They are closed in the end."""
        self._relaying = relaying
        self.shut()
        self.add(sockets)

    def add(self, sockets: Iterable[socket.socket]) -> None:
        for one in sockets:
            one.setblocking(False)
            self._sockets.append(one)
            asyncio.get_running_loop().add_reader(one.fileno(), self._accept, one)

    def drain(self) -> None:
        """The workers accept again: take what waits, then leave the sockets to them."""
        for one in self._sockets:
            while self._accept(one):
                pass
        self.shut()

    def shut(self) -> None:
        """Accept no more; what has been accepted goes on."""
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one.fileno())
            one.close()
        self._sockets = []

    def _accept(self, listening: socket.socket) -> bool:
        """Take some; whether there may be more."""
        for _ in range(_AT_A_TIME):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return False
            except ConnectionError:
                continue
            except OSError as error:
                _log.error("cannot accept a connection", cause=error.strerror)
                self._rest(listening)
                return False
            connection.setblocking(False)
            self._spawn(self._serve(connection))
        return True

    def _rest(self, listening: socket.socket) -> None:
        """Out of descriptors, most likely: asking at once again would only burn the processor."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())

        def resume() -> None:
            if listening in self._sockets:
                loop.add_reader(listening.fileno(), self._accept, listening)

        loop.call_later(_REST_S, resume)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                begun, said = await _first_message(connection)
            if said is not None and ACME_TLS in said.protocols:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._prove(connection, begun, said.host)
            elif self._relaying:
                await self._pass_on(connection, begun)
            elif said is not None:
                self._refuse(said)
                await asyncio.get_running_loop().sock_sendall(connection, hello.alert(hello.INTERNAL_ERROR))

    def _refuse(self, said: Hello) -> None:
        if not self._told:
            self._told = True
            _log.warning("clients are refused until there is a certificate", host=said.host)

    async def _prove(self, connection: socket.socket, begun: bytes, host: str) -> None:
        """Show the authority what it wants to see."""
        loop = asyncio.get_running_loop()
        context = await asyncio.to_thread(_context, self._answer(host))
        if context is None:
            _log.warning("asked by acme-tls/1 for a host that no order is under way for", host=host)
            await loop.sock_sendall(connection, hello.alert(hello.UNRECOGNIZED_NAME))
            return
        _log.info("answering tls-alpn-01", host=host)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(begun)
        session = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                session.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(connection, outgoing.read())
                received = await loop.sock_recv(connection, _PIECE_BYTES)
                if not received:
                    return
                incoming.write(received)
            except ssl.SSLError as error:
                _log.warning("the authority broke off tls-alpn-01", host=host, cause=error.reason)
                return
            else:
                await loop.sock_sendall(connection, outgoing.read())
                # It has seen the certificate; it ends the connection.
                await loop.sock_recv(connection, _PIECE_BYTES)
                return

    async def _pass_on(self, connection: socket.socket, begun: bytes) -> None:
        loop = asyncio.get_running_loop()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_S)
        with socket.socket() as worker, self._noted(worker, connection):
            await loop.sock_connect(worker, ("127.0.0.1", self._relay))
            await loop.sock_sendall(worker, begun)
            up = asyncio.create_task(_copy(connection, worker))
            down = asyncio.create_task(_copy(worker, connection))
            try:
                # An end without the other is no end: a client may have said all and still be listening.
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
                if up.done() and up.exception() is None:
                    await down
                elif down.done() and down.exception() is None:
                    # A worker ends both ways at once; the client is left the time to do so too.
                    await asyncio.wait([up], timeout=_PATIENCE_S)
            finally:
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)

    @contextmanager
    def _noted(self, worker: socket.socket, connection: socket.socket) -> Iterator[None]:
        """Say from where we speak for whom, before we do."""
        worker.setblocking(False)
        worker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        worker.bind(("127.0.0.1", 0))
        port, client = worker.getsockname()[1], connection.getpeername()
        self._note(port, client[:2])
        try:
            yield
        finally:
            # Its port is still ours, so this cannot be another connection's line.
            self._note(port, None)


async def _first_message(connection: socket.socket) -> tuple[bytes, Hello | None]:
    """What has been read, and what it says; None if it is not TLS.  Raises OSError if the client leaves."""
    loop = asyncio.get_running_loop()
    begun = b""
    while True:
        received = await loop.sock_recv(connection, hello.LIMIT_BYTES)
        if not received:
            raise ConnectionAbortedError
        begun += received
        try:
            said = hello.parse(begun)
        except NotTls:
            return begun, None
        if said is not None:
            return begun, said


def _context(place: Path | None) -> ssl.SSLContext | None:
    """TLS with the certificate that lies there; None if there is none."""
    if place is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([ACME_TLS.decode()])
    try:
        context.load_cert_chain(place)
    except (OSError, ssl.SSLError):
        return None
    return context


async def _copy(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends, which the target is told.  Raises OSError."""
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while size := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(target, buffer[:size])
    target.shutdown(socket.SHUT_WR)
