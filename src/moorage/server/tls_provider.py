"""Interim: one context from the plan's certificate."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage.server.options import Tls

__all__ = ["PlanContext"]


class PlanContext:
    """See `http1.tls_connection.TlsProvider`."""

    inspects = False

    def __init__(self, tls: Tls) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = (
            ssl.TLSVersion.TLSv1_3 if tls.minimum == "tls1.3" else ssl.TLSVersion.TLSv1_2
        )  # fmt: skip
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(tls.certificate.path, tls.key.path)
        if tls.clients is not None:
            context.load_verify_locations(tls.clients.authorities.path)
            context.verify_mode = ssl.CERT_REQUIRED if tls.clients.required else ssl.CERT_OPTIONAL
        self._context = context

    def context(self) -> ssl.SSLContext | None:
        return self._context

    async def challenge(self, host: str) -> ssl.SSLContext | None:
        del host
        return None
