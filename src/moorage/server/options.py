"""Options of a listener: limits of the HTTP server, and TLS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage.server.http1 import Http1Options

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.server.tls.memfd import SealedMemory

__all__ = ["Challenges", "ClientCertificates", "Pair", "ServerOptions", "TlsOptions"]


@dataclass(frozen=True, slots=True)
class ClientCertificates:
    """CAs that verify client certificates; with `required` unset a client may have no certificate."""

    authorities: SealedMemory = field(compare=False)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain, its key, and the host names it is served for (`*.example.com` included)."""

    certificate: SealedMemory = field(compare=False)
    key: SealedMemory = field(compare=False)
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """TLS of the listener, made by `tls.check`; `minimum` is `tls1.2` or `tls1.3`.

    `identity` is a hash of all files.  `until` is the time at which the first of the certificates expires,
    `subject` is the subject of that one.  `suites` are those of TLS 1.2 by OpenSSL's names, the preferred one
    first; empty: the default.  `more` are certificates that are served by SNI; all other clients get the default.
    """

    certificate: SealedMemory = field(compare=False)
    key: SealedMemory = field(compare=False)
    minimum: str
    clients: ClientCertificates | None
    identity: str
    until: datetime
    subject: str = ""
    names: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()
    more: tuple[Pair, ...] = ()

    def close(self) -> None:
        """Release the certificates and keys in this process; contexts that were made from them stay valid."""
        more = [part for pair in self.more for part in (pair.certificate, pair.key)]
        for sealed in (self.certificate, self.key, *more):
            sealed.close()
        if self.clients is not None:
            self.clients.authorities.close()


@dataclass(frozen=True, slots=True)
class Challenges:
    """TLS-ALPN-01: the directory of pending challenges, shared by all nodes, and the configured hosts."""

    folder: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of one listener.

    `awaiting`: HTTPS is configured, and `tls` is set once ACME has obtained a certificate.  `challenges` is None
    without `http.tls.letsencrypt`.
    """

    http1: Http1Options = field(default_factory=Http1Options)
    tls: TlsOptions | None = None
    awaiting: bool = False
    challenges: Challenges | None = None

    @property
    def https(self) -> bool:
        return self.tls is not None or self.awaiting
