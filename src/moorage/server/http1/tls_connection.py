"""HTTPS connection with Python's `ssl`: handshake, decryption, encryption.

    FIRST ─► (ClientHello read whole) ─► HANDSHAKE ─► OPEN ─► as `Connection`
      │                └─ neither HTTP/1.1 nor 1.0 by ALPN: alert no_application_protocol, which `ssl` cannot send
      └─ not TLS: a readable 400

The ClientHello is read whole where the certificate depends on it (several names, TLS-ALPN-01), and where the first
bytes do not mention HTTP/1.  One that cannot be parsed, or is unusually long, is left to OpenSSL with the default
certificate: OpenSSL knows the alert for it.

An `SSLObject` between two memory BIOs, not uvloop's own TLS: handshake failures have a reason, contexts are
chosen per connection, and files are encrypted in threads.

One owner at a time: an `SSLObject` must not be used by two threads at once.  It belongs to the event loop, except
while `send_file` runs: then its thread owns it, the connection reads nothing (a KeyUpdate, a closing alert or the
next request wait in the kernel) and writes nothing.  `_thread_owns_tls` is true meanwhile; every method that
touches the object checks it.

Memory: a BIO never shrinks.  So received bytes pass through it in slices of `_BIO_BYTES`, responses are encrypted
in pieces of `_WRITE_BYTES`, and files in those of `file_sender._PIECE_BYTES`.
"""

from __future__ import annotations

import hashlib
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from moorage.server.http1 import client_hello
from moorage.server.http1.connection import Connection
from moorage.server.http1.response_head import refusal

if TYPE_CHECKING:
    import socket

    from moorage.server.http1.file_sender import FileJob
    from moorage.server.http1.interfaces import ServerContext, TlsProvider

__all__ = ["TlsConnection"]

_WRITE_BYTES: Final = 128 << 10
_BIO_BYTES: Final = 64 << 10
"""Bytes put into the incoming BIO at once: its memory grows to the most that it has held, and is kept."""

_HANDSHAKE_READ_BYTES: Final = 16 << 10
_UNREAD_LIMIT_BYTES: Final = 4 << 20
_HANDSHAKE_RECORD: Final = 0x16
_HTTP_PREFIX: Final = b"http/1."
_OFFERED_LIMIT_CHARS: Final = 100
_FIRST, _HANDSHAKE, _OPEN, _PLAIN, _ENDED = range(5)
_EMPTY: Final = memoryview(b"")


class TlsConnection(Connection):
    """See the module docstring."""

    __slots__ = (
        "_answers_challenge", "_challenge_task", "_close_notify_sent", "_first", "_hello", "_incoming",
        "_outgoing", "_phase", "_thread_owns_tls", "_tls",
    )  # fmt: skip

    scheme = "https"

    def __init__(self, server: ServerContext, sock: socket.socket, client: tuple[str, int] | None) -> None:
        super().__init__(server, sock, client)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        self._phase = _FIRST
        self._first = bytearray()
        self._hello: client_hello.Assembler | None = None
        self._thread_owns_tls = False
        self._answers_challenge = False
        self._close_notify_sent = False
        self._challenge_task: Any = None

    # asyncio's callbacks

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.deadline = self.loop.time() + self.server.options.handshake_timeout_s
        self.server.handshake_started(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return super().get_buffer(0) if self._phase == _OPEN else self.server.buffer[:_HANDSHAKE_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if self._phase == _PLAIN:
            self.received(self.server.buffer, 0, nbytes)
        elif self._phase == _FIRST:
            self._inspect_first_bytes(self.server.buffer[:nbytes].tobytes())
        elif self._phase != _ENDED:
            if self._close_notify_sent:
                # After our close_notify nothing is decrypted; LINGER counts the bytes.
                self.received(self.server.buffer, 0, nbytes)
                return
            if self._phase == _OPEN and not self._thread_owns_tls:
                self._decrypt(self.server.buffer[:nbytes])
                return
            self._incoming.write(self.server.buffer[:nbytes])
            self._advance()

    def eof_received(self) -> bool:
        if self._phase == _FIRST and not self._first:
            # A health check that only connects is no failed handshake.
            self._end_handshake()
            return True
        if self._phase in {_FIRST, _HANDSHAKE}:
            self._fail("the client closed the connection during the handshake")
            return True
        return super().eof_received()

    # Handshake

    def _inspect_first_bytes(self, data: bytes) -> None:
        """Inspect the first bytes: TLS or plain HTTP, and the context to use."""
        provider = self.server.tls
        assert provider is not None
        if not self._first and data[0] != _HANDSHAKE_RECORD:
            self._phase = _PLAIN
            self.server.handshake_ended(self)
            self._answer_plain()
            return
        self._first += data
        if self._hello is None:
            if not provider.inspects and _HTTP_PREFIX in data:
                self._begin_handshake(provider.context(""))
                return
            self._hello = client_hello.Assembler()
        try:
            hello = self._hello.feed(data)
        except client_hello.NotTls:
            self._begin_handshake(provider.context(""))
            return
        if hello is not None:
            self._choose_context(provider, hello)

    def _choose_context(self, provider: TlsProvider, hello: client_hello.ClientHello) -> None:
        """Choose the context by the ClientHello."""
        if provider.answers_challenges and client_hello.ACME_TLS in hello.protocols:
            self._phase = _HANDSHAKE
            self.pause_reading()
            self._challenge_task = self.loop.create_task(self._answer_challenge(hello.host))
        elif hello.protocols and not set(client_hello.HTTP).intersection(hello.protocols):
            # RFC 7301 section 3.2
            offered = " ".join(one.decode("ascii", "backslashreplace") for one in hello.protocols)
            reason = f"the client offers no HTTP/1.1 by ALPN, only {offered[:_OFFERED_LIMIT_CHARS]}"
            self._fail(reason, client_hello.alert(client_hello.NO_APPLICATION_PROTOCOL))
        else:
            self._begin_handshake(provider.context(hello.host))

    async def _answer_challenge(self, host: str) -> None:
        """Answer a TLS-ALPN-01 challenge (RFC 8737)."""
        provider = self.server.tls
        assert provider is not None
        try:
            context = await provider.challenge(host)
        except OSError as error:  # of which TimeoutError is one
            cause = str(error) or "the directory of http.tls.letsencrypt does not respond"
            self.server.log_client_error(
                "acme-tls/1 is refused: the challenge cannot be read", self, host=host, cause=cause
            )
            if not self.lost and self._phase == _HANDSHAKE:
                self._end_handshake(client_hello.alert(client_hello.INTERNAL_ERROR))
            return
        if self.lost or self._phase != _HANDSHAKE:
            return
        if context is None:
            self.server.log_client_error("acme-tls/1 for a host without a pending challenge", self, host=host)
            self._end_handshake(client_hello.alert(client_hello.UNRECOGNIZED_NAME))
            return
        self._answers_challenge = True
        self.resume_reading()
        self._begin_handshake(context)

    def _begin_handshake(self, context: ssl.SSLContext | None) -> None:
        if context is None:
            self.server.log_client_error("TLS handshake refused: there is no certificate yet", self)
            self._end_handshake(client_hello.alert(client_hello.INTERNAL_ERROR))
            return
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._phase = _HANDSHAKE
        self._incoming.write(self._first)
        self._first, self._hello = bytearray(), None
        self._advance()

    def _advance(self) -> None:
        """Advance the handshake, or decrypt received bytes."""
        if self._thread_owns_tls or self._tls is None:
            return
        if self._phase == _HANDSHAKE:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                return
            except (ssl.SSLError, ValueError) as error:
                self._flush()
                self._fail(_reason(error))
                return
            self._complete_handshake(self._tls)
            if self._phase != _OPEN:
                return
        self._decrypt()

    def _complete_handshake(self, tls: ssl.SSLObject) -> None:
        """Switch to HTTP after the handshake."""
        self.server.handshake_ended(self)
        self._flush()
        if self._answers_challenge:
            # The authority has the certificate and closes the connection.
            self._phase = _ENDED
            self.deadline = self.loop.time() + self.server.options.handshake_timeout_s
            return
        self._phase = _OPEN
        self.deadline = self.loop.time() + self.server.options.header_timeout_s
        self.tls_subject = _peer_subject(tls)
        if self.server.stopping and self.is_idle:
            self.loop.call_later(0.1, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.is_idle and not self.lost:
            self.close()

    @property
    def is_idle(self) -> bool:
        return self._phase == _OPEN and super().is_idle

    def _fail(self, reason: str, alert: bytes = b"") -> None:
        """Log a failed handshake and close the connection."""
        self.server.log_client_error("TLS handshake failed", self, reason=reason)
        self._end_handshake(alert)

    def _end_handshake(self, alert: bytes = b"") -> None:
        """Close the connection instead of a handshake's completion, after sending an alert."""
        self._phase = _ENDED
        self.server.handshake_ended(self)
        if alert:
            self._transport.write(alert)
        super().close()

    def _answer_plain(self) -> None:
        self.server.log_client_error("plain HTTP on a port that serves HTTPS", self)
        text = "plain HTTP was sent to a port that serves HTTPS; use https://"
        Connection.write(self, refusal(400, text, self.server.date()))
        self._linger()

    # Reading

    def _decrypt(self, data: memoryview = _EMPTY) -> None:
        """Decrypt the content of the incoming BIO, then `data`, and handle all of it at once."""
        buffer = self.server.plain_buffer
        size, ended = 0, False
        try:
            if self._incoming.pending or not data:
                size, ended = self._read_records(buffer)
            for at in range(0, len(data), _BIO_BYTES):
                if ended:
                    break
                self._incoming.write(data[at : at + _BIO_BYTES])
                count, ended = self._read_records(buffer[size:])
                size += count
        except ssl.SSLError as error:
            self.server.log_client_error("TLS failed", self, reason=_reason(error))
            self._send_alert()
            self.abort()
            return
        self._flush()
        if self.unsent() > _UNREAD_LIMIT_BYTES:
            # Each KeyUpdate is answered; this client does not read the answers.
            self.server.log_client_error(
                "a client sends TLS messages and reads no answers; it is disconnected", self
            )
            self.abort()
            return
        if size:
            self.received(buffer, 0, size)
        if ended and not self.lost and not self.eof:
            super().eof_received()

    def _read_records(self, buffer: memoryview) -> tuple[int, bool]:
        """Decrypt the content of the incoming BIO; return the number of bytes, and whether TLS has ended.

        Raises ssl.SSLError.
        """
        assert self._tls is not None
        size, read = 0, self._tls.read
        try:
            while True:
                # With a buffer `read` returns a count, which its stub does not know.
                count = cast("int", read(_BIO_BYTES, buffer[size:]))
                if not count:
                    return size, True
                size += count
        except ssl.SSLWantReadError:
            return size, False
        except ssl.SSLZeroReturnError:
            return size, True

    def _send_alert(self) -> None:
        """Send OpenSSL's fatal alert ahead of the reset, unless other bytes wait before it."""
        if self._outgoing.pending and not self.unsent():
            with suppress(OSError):  # the client has left, or its buffer is full
                self.sock.send(self._outgoing.read())

    def resume_reading(self) -> None:
        super().resume_reading()
        # Decrypted bytes may wait in the object while the transport has nothing to report.
        if self._incoming.pending and self._phase == _OPEN and not self._close_notify_sent and not self.lost:
            self.loop.call_soon(self._advance)

    # Writing

    def encrypt(self, data: memoryview | bytes) -> bytes:
        """Return `data` encrypted; only for the owner of the `SSLObject`."""
        assert self._tls is not None
        if data:
            self._tls.write(data)
        return self._outgoing.read()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.lost:
            self._transport.write(self._outgoing.read())

    @property
    def cipher(self) -> TlsConnection | None:
        return self

    def write(self, *data: bytes) -> None:
        assert not self._thread_owns_tls
        joined = data[0] if len(data) == 1 else b"".join(data)
        self.written += len(joined)
        if self._phase == _PLAIN or self._tls is None:
            self._transport.write(joined)
            return
        for at in range(0, len(joined), _WRITE_BYTES):
            self._transport.write(self.encrypt(memoryview(joined)[at : at + _WRITE_BYTES]))

    async def send_file(self, job: FileJob, head: bytes) -> None:
        self.pause_reading()
        self._thread_owns_tls = True
        try:
            await super().send_file(job, head)
        finally:
            self._thread_owns_tls = False
            if not self.lost:
                self.resume_reading()

    def shut_down_sending(self) -> None:
        self._send_close_notify()
        super().shut_down_sending()

    def close(self) -> None:
        self._send_close_notify()
        super().close()

    def _send_close_notify(self) -> None:
        """Send close_notify once, so that the client can detect truncation (RFC 8446 section 6.1)."""
        if (
            self._phase != _OPEN
            or self._close_notify_sent
            or self._thread_owns_tls
            or self._tls is None
            or self.lost
        ):
            return
        self._close_notify_sent = True
        with suppress(ssl.SSLError, ValueError):  # the client's close_notify is not awaited
            self._tls.unwrap()
        self._flush()

    def expired(self, now: float) -> None:
        if self._phase in {_FIRST, _HANDSHAKE}:
            self._fail(f"not complete within {self.server.options.handshake_timeout_s:g} s")
        elif self._phase == _ENDED:
            self.abort()
        else:
            super().expired(now)


def _reason(error: Exception) -> str:
    """Return OpenSSL's reason as text."""
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _peer_subject(tls: ssl.SSLObject) -> str:
    """Return the subject of the client's certificate, or a digest of a certificate that `ssl` cannot decode."""
    try:
        return _subject(tls.getpeercert())
    except (ssl.SSLError, ValueError):
        return f"sha256={hashlib.sha256(tls.getpeercert(binary_form=True) or b'').hexdigest()}"


def _subject(certificate: Any) -> str:
    """Return the subject of a client's certificate, the most specific part first; "" without a certificate."""
    if not certificate:
        return ""
    parts = [
        "+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in group)
        for group in certificate.get("subject", ())
    ]
    return ",".join(reversed(parts))


def _escaped(value: str | bytes) -> str:
    """Escape as RFC 4514 does, so that a value cannot pass for further parts; cut long ones."""
    if isinstance(value, bytes):  # a BIT STRING, as in x500UniqueIdentifier
        return f"#{value[:_VALUE_LIMIT_CHARS].hex()}"
    value = value[:_VALUE_LIMIT_CHARS]
    ends = {0, len(value) - 1}
    return "".join(
        f"\\{letter}"
        if letter in _SPECIAL or (letter == " " and at in ends) or (letter == "#" and at == 0)
        else letter
        for at, letter in enumerate(value)
    )


_SPECIAL: Final = frozenset('\\",+;<>=')
_VALUE_LIMIT_CHARS: Final = 256
_SHORT: Final = {
    "commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
    "stateOrProvinceName": "ST", "localityName": "L",
}  # fmt: skip
