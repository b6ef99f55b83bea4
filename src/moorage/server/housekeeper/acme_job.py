"""Job that obtains and renews the certificates of `http.tls.letsencrypt`, and answers HTTP-01.

    run ──► `AcmeJob` ──► moorage.acme.renewal ──► directory ──► CERTIFICATE_WRITTEN ──► master ──► workers

TLS-ALPN-01 is answered by the workers, which read the directory.  Before the first certificate the workers answer
challenges only, and refuse other handshakes.  The account key and the keys of certificates are in the memory of
the housekeeper, and in the directory, alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from moorage import extras
from moorage.acme.order_spec import HTTP_01, LETS_ENCRYPT, TLS_ALPN_01, CertificateOrder, Timings
from moorage.server.housekeeper.jobs import Job, JobContext
from moorage.server.housekeeper.process import CERTIFICATE_WRITTEN
from moorage.server.listeners import bind
from moorage.startup import StartupError

if TYPE_CHECKING:
    import socket

    from moorage.config.model import Settings
    from moorage.server.listeners import Sockets
    from moorage.server.processes.worker_config import Plan

__all__ = ["AcmeJob", "AcmeJobs", "certificate_order", "prepare_acme", "require_library"]

_log: Final = structlog.get_logger("moorage.acme")


def certificate_order(settings: Settings, *, http: bool, unix: bool) -> CertificateOrder:
    """Return the certificate order that `http.tls.letsencrypt` configures.

    HTTP-01 needs a listener of its own, TLS-ALPN-01 a socket of the registry that the authority can reach.
    """
    acme = settings.http.tls.letsencrypt
    kinds = (*((HTTP_01,) if http else ()), *(() if unix else (TLS_ALPN_01,)))
    return CertificateOrder(
        hosts=acme.names,
        folder=str(Path(acme.cachefile).absolute()),
        kinds=kinds,
        email=acme.email,
        directory=acme.directoryurl or LETS_ENCRYPT,
    )


def require_library() -> None:
    """Raise `StartupError` if the ACME client libraries are not installed."""
    extras.require("letsencrypt", "http.tls.letsencrypt", "acme", "josepy")


def prepare_acme(plan: Plan, sockets: Sockets, timings: Timings) -> AcmeJobs | None:
    """Create the directory and bind the listener for HTTP-01; None without ACME.  Raises `StartupError`."""
    acme = plan.settings.http.tls.letsencrypt
    if not acme.cachefile:
        return None
    require_library()
    order = certificate_order(plan.settings, http=bool(acme.http01), unix=sockets.unix)
    if not order.kinds:
        raise StartupError(
            "http.tls.letsencrypt on a Unix socket: no authority can reach it; set http.tls.letsencrypt.http01"
        )
    from moorage.acme import store  # noqa: PLC0415  most servers run without ACME

    try:
        store.prepare(order.folder)
    except OSError as error:
        raise StartupError(
            f"http.tls.letsencrypt.cachefile: cannot use {order.folder}: {error.strerror}"
        ) from error
    http = bind("tcp", acme.http01, 1) if acme.http01 else None
    return AcmeJobs(None if http is None else http.of(0), timings, unix=sockets.unix)


class AcmeJobs:
    """Creates the job from the current settings.  `http` is the listening socket for HTTP-01, kept by a reload."""

    def __init__(self, http: socket.socket | None, timings: Timings, *, unix: bool) -> None:
        self.http = http
        self._timings = timings
        self._unix = unix

    def __call__(self, plan: Plan) -> list[Job]:
        settings = plan.settings
        if not settings.http.tls.letsencrypt.cachefile:
            return []
        order = certificate_order(settings, http=self.http is not None, unix=self._unix)
        return [AcmeJob(order, settings.http.host, not plan.awaiting, self.http, self._timings)]


@dataclass(frozen=True)
class AcmeJob(Job):
    """`serving`: workers serve a certificate of the directory already."""

    name: ClassVar[str] = "certificates by ACME"

    order: CertificateOrder
    public_url: str
    serving: bool = field(compare=False)
    http: socket.socket | None = field(compare=False)
    timings: Timings = field(compare=False)

    async def run(self, context: JobContext) -> None:
        from moorage.acme.authority import obtain, trust  # noqa: PLC0415  heavy: not before the fork
        from moorage.acme.http01 import HttpChallenges  # noqa: PLC0415  as above
        from moorage.acme.renewal import CertificateRenewal  # noqa: PLC0415  as above
        from moorage.acme.store import CertificateStore  # noqa: PLC0415  as above

        if not self.serving:
            _log.info("waiting for a certificate; nothing is served before", hosts=", ".join(self.order.hosts))
        trust()
        store = CertificateStore(self.order.folder)
        renewal = CertificateRenewal(
            self.order, store, lambda: context.report(CERTIFICATE_WRITTEN),
            serving=self.serving, timings=self.timings, obtain=obtain,
        )  # fmt: skip
        context.on_reload = renewal.retry_now
        server: asyncio.Server | None = None
        try:
            if self.http is not None:
                # A duplicate: the next run after a failure needs the socket again.
                challenges = HttpChallenges(store, self.order.hosts, self.public_url)
                server = await challenges.start(self.http.dup())
            await renewal.run()
        except asyncio.CancelledError:
            if self.http is not None:
                self.http.close()
            raise
        finally:
            if server is not None:
                server.close()
