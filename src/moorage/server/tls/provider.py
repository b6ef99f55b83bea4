"""TLS contexts of a worker: for new connections, replaced in place, and for TLS-ALPN-01 challenges."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from moorage.acme.store import CertificateStore
from moorage.server.http1.client_hello import ACME_TLS
from moorage.server.tls.contexts import make_contexts
from moorage.system_errors import no_thread_error

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.server.options import Challenges, TlsOptions
    from moorage.server.tls.contexts import Contexts

__all__ = ["Certificates"]

_THREADS: Final = 4
_READ_LIMIT_S: Final = 5.0


class Certificates:
    """Implements `http1.interfaces.TlsProvider`.

    Open connections keep their context.  A pending challenge is stored in the directory that all workers of all
    nodes read, so each of them can answer the authority, not only the node that placed the order.  It may be on
    a file system that hangs: it is read in `_THREADS` threads of its own, for at most `_READ_LIMIT_S` seconds.
    `until` is when the first of the certificates for new connections expires.
    """

    def __init__(self, tls: TlsOptions | None, challenges: Challenges | None) -> None:
        self.until: datetime | None = None
        self._contexts: Contexts | None = None
        if tls is not None:
            self.replace(tls)
        self._hosts = () if challenges is None else challenges.hosts
        self._store = None if challenges is None else CertificateStore(challenges.folder)
        self._threads = ThreadPoolExecutor(_THREADS, "challenges")
        self._free = asyncio.Semaphore(_THREADS)

    @property
    def inspects(self) -> bool:
        return self.answers_challenges or (self._contexts is not None and self._contexts.depend_on_names)

    @property
    def answers_challenges(self) -> bool:
        return self._store is not None

    def context(self, host: str) -> ssl.SSLContext | None:
        return None if self._contexts is None else self._contexts.for_host(host)

    def replace(self, tls: TlsOptions) -> None:
        """Use other certificates for new connections, and release their files."""
        try:
            self._contexts = make_contexts(tls)
            self.until = tls.until
        finally:
            tls.close()

    async def challenge(self, host: str) -> ssl.SSLContext | None:
        # The host becomes a file name, so only configured ones are looked up.
        if self._store is None or host not in self._hosts:
            return None
        async with asyncio.timeout(_READ_LIMIT_S):
            await self._free.acquire()
            loop = asyncio.get_running_loop()
            try:
                reading = loop.run_in_executor(self._threads, _challenge_context, self._store, host)
            except RuntimeError as error:
                self._free.release()
                raise no_thread_error() from error
            # A thread that hangs is not free, whether its result is awaited or not.
            reading.add_done_callback(lambda _: self._free.release())
            return await asyncio.shield(reading)


def _challenge_context(store: CertificateStore, host: str) -> ssl.SSLContext | None:
    """Return the context of a TLS-ALPN-01 challenge for `host` (RFC 8737); None without a pending one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([ACME_TLS.decode()])
    try:
        context.load_cert_chain(store.alpn_file(host))
    except (OSError, ssl.SSLError):
        return None
    return context
