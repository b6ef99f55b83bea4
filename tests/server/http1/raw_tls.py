"""The client's side of TLS on a raw socket: the test decides what is sent, and how the connection ends."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Self

from tests.server.http1.peer import Peer

if TYPE_CHECKING:
    import socket

__all__ = ["RawTlsPeer"]

_PIECE_BYTES = 64 << 10


class RawTlsPeer(Peer):
    """`send` and `receive` are those of plain text; `send_raw` bypasses TLS."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext, *, receive_bytes: int = 0) -> Self:
        """Connect and complete the handshake.  Raises ssl.SSLError, ConnectionResetError."""
        sock = (await Peer.connect(port, receive_bytes=receive_bytes)).sock
        peer = cls(sock)
        try:
            await peer.handshake(context)
        except BaseException:
            peer.close()
            raise
        return peer

    async def handshake(self, context: ssl.SSLContext) -> None:
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
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
        assert self._tls is not None
        while True:
            try:
                data = self._tls.read(size)
            except ssl.SSLWantReadError:
                if not await self._read_raw():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            else:
                self.received += data
                return data

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

    async def _read_raw(self) -> bytes:
        before = self.received
        data = await super().receive()
        self.received = before
        self._incoming.write(data)
        return data
