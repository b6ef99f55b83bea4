"""A TLS client in the test's event loop: the test decides which bytes are sent, and how the connection ends."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Self

from tests.server.http1.peer import Peer

if TYPE_CHECKING:
    import socket

__all__ = ["TlsPeer"]

_PIECE_BYTES = 64 << 10


class TlsPeer(Peer):
    """`send`, `receive` and `received` are plain text; `send_raw` bypasses TLS.

    `closed`: the server's close_notify has arrived.  `received_bytes` counts decrypted bytes.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.closed = False
        self.received_bytes = 0
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    @classmethod
    async def open(
        cls, port: int, context: ssl.SSLContext, host: str = "localhost", *, receive_bytes: int = 0
    ) -> Self:
        """Connect and complete the handshake.  Raises ssl.SSLError, ConnectionResetError."""
        sock = (await Peer.connect(port, receive_bytes=receive_bytes)).sock
        peer = cls(sock)
        try:
            await peer.handshake(context, host)
        except BaseException:
            peer.close()
            raise
        return peer

    async def handshake(self, context: ssl.SSLContext, host: str) -> None:
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._read_raw():
                    raise ConnectionResetError("the connection ended during the handshake") from None
            except ssl.SSLError:
                await self._flush()  # the alert
                raise
            else:
                break
        await self._flush()
        self._tls = tls

    async def send_raw(self, data: bytes) -> bool:
        """Send bytes without encryption; False when the server has ended the connection."""
        return await super().send(data)

    async def send(self, data: bytes) -> bool:
        assert self._tls is not None
        for at in range(0, len(data), _PIECE_BYTES):
            self._tls.write(data[at : at + _PIECE_BYTES])
            if not await self._flush():
                return False
        return True

    async def receive(self, size: int = 1 << 16) -> bytes:
        """Return some decrypted bytes; b"" at the end of TLS or of the connection.  Raises ssl.SSLError."""
        assert self._tls is not None
        while True:
            try:
                data = self._tls.read(size)
            except ssl.SSLWantReadError:
                if not await self._read_raw(size):
                    return b""
            except ssl.SSLZeroReturnError:
                self.closed = True
                return b""
            else:
                self.closed = self.closed or not data
                self.received += data
                self.received_bytes += len(data)
                return data

    async def read_to_close_notify(self) -> None:
        """Read and drop everything.  Raises ssl.SSLError for an alert, and for an end without close_notify."""
        while await self.receive():
            self.received = b""
        if not self.closed:
            raise ssl.SSLEOFError("the connection ended without close_notify")

    async def send_close_notify(self) -> None:
        """Send close_notify; the other direction stays open."""
        assert self._tls is not None
        with contextlib.suppress(ssl.SSLWantReadError):  # `unwrap` fails on records that are not alerts
            while True:
                self.received += self._tls.read(_PIECE_BYTES)
        with contextlib.suppress(ssl.SSLWantReadError):  # the server's own has not arrived
            self._tls.unwrap()
        assert self._outgoing.pending
        await self._flush()

    def half_close(self) -> None:
        """Send close_notify, and shut down the sending side."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self.sock.send(self._outgoing.read())
        super().half_close()

    async def _flush(self) -> bool:
        data = self._outgoing.read()
        return await super().send(data) if data else True

    async def _read_raw(self, size: int = _PIECE_BYTES) -> bytes:
        before = self.received
        data = await super().receive(size)
        self.received = before
        self._incoming.write(data)
        return data
