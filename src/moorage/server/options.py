"""Options of a worker's listener: limits of the HTTP server, and TLS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moorage.server.http1 import Http1Options

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.server.sealed import Sealed

__all__ = ["Challenges", "Clients", "ServerOptions", "Tls"]


@dataclass(frozen=True, slots=True)
class Clients:
    """Authorities that clients' certificates are checked against; without `required` a client may have none."""

    authorities: Sealed = field(compare=False)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Tls:
    """Made by `tls.check`; `minimum` is `tls1.2` or `tls1.3`.

    `identity` tells contents apart, `until` is when the certificate expires, `subject` whose it is.
    """

    certificate: Sealed = field(compare=False)
    key: Sealed = field(compare=False)
    minimum: str
    clients: Clients | None
    identity: str
    until: datetime
    subject: str = ""

    def close(self) -> None:
        """Release the private bytes in this process, once a context is made of them."""
        for sealed in (self.certificate, self.key):
            sealed.close()
        if self.clients is not None:
            self.clients.authorities.close()


@dataclass(frozen=True, slots=True)
class Challenges:
    """TLS-ALPN-01: the directory that all nodes share, and the hosts that are answered for."""

    folder: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Options of one listener.

    `awaiting`: HTTPS is to be served, and `tls` comes later.  `challenges`: where workers find what answers
    TLS-ALPN-01, None without `http.tls.letsencrypt`.
    """

    http1: Http1Options = field(default_factory=Http1Options)
    tls: Tls | None = None
    awaiting: bool = False
    challenges: Challenges | None = None

    @property
    def https(self) -> bool:
        return self.tls is not None or self.awaiting
