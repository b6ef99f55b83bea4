"""Tests of TLS: certificates for a server, handshakes of blocking clients, raw ClientHello messages.

The server runs in the test's event loop, so blocking clients run in threads; those of `tls_peer.py` do not block.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.server import certs
from tests.server.http1.peer import LIMIT_S

from moorage.config.sections.http import CertificatePair
from moorage.config.sections.http import Tls as TlsSettings
from moorage.server.tls.provider import Certificates
from moorage.server.tls.validation import check

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.server.certs import Holder
    from tests.server.http1.harness import Running

    from moorage.server.options import Challenges, TlsOptions

__all__ = [
    "ALERT", "TLS12", "TLS13", "Certificate", "Shaken", "alert_of", "certificates_in", "client_hello", "provider",
    "shake", "split", "tls", "trusting",
]  # fmt: skip

TLS12: Final = ssl.TLSVersion.TLSv1_2
TLS13: Final = ssl.TLSVersion.TLSv1_3
ALERT: Final = 21
_FATAL: Final = 2


# The server's side


def tls(folder: Path, *holders: Holder, **settings: Any) -> TlsOptions:
    """Return what `http.tls` with these certificates is served with; the first one is the default."""
    first, *more = [holder.write(folder, f"certificate-{holder.serial}") for holder in holders]
    pairs = tuple(CertificatePair(certificate=one["certificate"], key=one["key"]) for one in more)
    section = TlsSettings(certificate=first["certificate"], key=first["key"], certificates=pairs, **settings)
    made, _ = check(section)
    assert made is not None
    return made


def provider(
    folder: Path, *holders: Holder, challenges: Challenges | None = None, **settings: Any
) -> Certificates:
    """Return the certificates of a server."""
    return Certificates(tls(folder, *holders, **settings), challenges)


class Certificate:
    """A `TlsProvider` with one certificate, and the context of a client that trusts it."""

    inspects = False
    answers_challenges = False

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


# Whole handshakes


@dataclass(frozen=True)
class Shaken:
    """A completed handshake and the response to one request."""

    serial: int
    version: str
    cipher: str
    protocol: str | None
    reused: bool
    session: ssl.SSLSession | None
    response: bytes

    @property
    def status(self) -> int:
        return int(self.response.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        return self.response.partition(b"\r\n\r\n")[2]


def trusting(authority: Holder, *protocols: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a client's context; host names are not checked, `version` is the only one."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.check_hostname = False
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def shake(
    served: Running,
    context: ssl.SSLContext,
    host: str | None = "registry.test",
    *,
    target: str = "/",
    session: ssl.SSLSession | None = None,
) -> Shaken:
    """Make a handshake and one request.  Raises OSError, which SSLError is."""
    return await asyncio.to_thread(handshake, served.port, context, host, target, session)


def handshake(
    port: int, context: ssl.SSLContext, host: str | None, target: str, session: ssl.SSLSession | None
) -> Shaken:
    """See `shake`."""
    with (
        socket.create_connection(("127.0.0.1", port), LIMIT_S) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as client,
    ):
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        response = b""
        while data := client.recv(1 << 16):
            response += data
        certificate = x509.load_der_x509_certificate(client.getpeercert(binary_form=True) or b"")
        return Shaken(
            certificate.serial_number,
            client.version() or "",
            (client.cipher() or ("",))[0],
            client.selected_alpn_protocol(),
            bool(client.session_reused),
            client.session,
            response,
        )


# Raw messages


def client_hello(host: bytes = b"", *protocols: str, version: ssl.TLSVersion = TLS12) -> bytes:
    """Return a ClientHello with any bytes as host name; a server of TLS 1.2 sends its certificate in clear."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    place = "x" * len(host)
    client = context.wrap_bio(incoming, outgoing, server_hostname=place or None)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    else:
        raise AssertionError("a handshake without a server")
    data = outgoing.read()
    if not host:
        return data
    size = len(host)
    before = (size + 3).to_bytes(2) + b"\0" + size.to_bytes(2)  # of the list, the type, of the name
    assert data.count(before + place.encode()) == 1
    return data.replace(before + place.encode(), before + host)


def split(record: bytes, *sizes: int) -> bytes:
    """Return the message of one record in several: those of `sizes`, and the rest."""
    left, pieces = record[5:], list[bytes]()
    for size in sizes:
        pieces.append(left[:size])
        left = left[size:]
    return b"".join(record[:3] + len(piece).to_bytes(2) + piece for piece in (*pieces, left))


def alert_of(data: bytes) -> int:
    """Return the description of the fatal alert that ends `data`."""
    assert len(data) >= 7, data
    assert (data[-7], data[-6], data[-2]) == (ALERT, 3, _FATAL), data[-20:]
    return data[-1]


def certificates_in(data: bytes, holders: Sequence[Holder]) -> list[Holder]:
    """Return those whose certificate a server of TLS 1.2 has sent."""
    return [one for one in holders if one.certificate.public_bytes(Encoding.DER) in data]
