"""The client's side of tests with TLS, with every record under control; and the certificate of the server."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.server import certs
from tests.server.http1.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["Certificate", "TlsPeer"]

_RECORDS_BYTES = 1 << 16


class Certificate:
    """A `TlsProvider` with one certificate, and the context of a client that trusts it."""

    inspects = answers_challenges = False

    def __init__(self, folder: Path) -> None:
        holder = certs.self_signed()
        paths = holder.write(folder, "server")
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.load_cert_chain(paths["certificate"], paths["key"])
        self.client = ssl.create_default_context(cadata=holder.pem.decode())
        self.path = paths["certificate"]

    def context(self, host: str) -> ssl.SSLContext:
        del host
        return self._server

    async def challenge(self, host: str) -> ssl.SSLContext | None:
        raise AssertionError(host)


class TlsPeer(Peer):
    """`received` is decrypted.  `closed`: the server's closing alert has come."""

    closed = False

    @classmethod
    async def shaken(cls, port: int, certificate: Certificate, *, receive_bytes: int = 0) -> Self:
        """Connect, and complete the handshake."""
        plain = await Peer.connect(port, receive_bytes=receive_bytes)
        peer = cls(plain.sock)
        peer.incoming, peer.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer.tls = certificate.client.wrap_bio(peer.incoming, peer.outgoing, server_hostname="registry.test")
        while True:
            try:
                peer.tls.do_handshake()
            except ssl.SSLWantReadError:
                await peer.send_records()
                data = await Peer.receive(peer, _RECORDS_BYTES)
                assert data, "the connection ended during the handshake"
                peer.incoming.write(data)
            else:
                await peer.send_records()
                peer.received = b""
                return peer

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    tls: ssl.SSLObject

    async def send_records(self) -> bool:
        """Send what the TLS object has made."""
        return await Peer.send(self, self.outgoing.read())

    async def send(self, data: bytes) -> bool:
        self.tls.write(data)
        return await self.send_records()

    async def receive(self, size: int = _RECORDS_BYTES) -> bytes:
        """Return some decrypted bytes; b"" at the end, of TLS or of the connection."""
        while True:
            try:
                data = self.tls.read(size)
            except ssl.SSLWantReadError:
                before = self.received
                records = await Peer.receive(self, size)
                self.received = before
                if not records:
                    return b""
                self.incoming.write(records)
            except ssl.SSLZeroReturnError:
                data = b""
                self.closed = True
                return data
            else:
                self.closed = self.closed or not data
                self.received += data
                return data

    async def say_goodbye(self) -> None:
        """Send close_notify, and go on reading."""
        with suppress(ssl.SSLWantReadError):  # `unwrap` fails on records that are not alerts
            while True:
                self.received += self.tls.read(_RECORDS_BYTES)
        with suppress(ssl.SSLWantReadError):  # the server's own is not here yet
            self.tls.unwrap()
        assert self.outgoing.pending
        await self.send_records()
