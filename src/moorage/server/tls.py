"""HTTPS: the files that the settings name become what every worker of a plan serves.

    files ──certificates.py──► checked, in one form ──sealed.py──► read by rustls in each worker

Granian panics on anything it cannot use, so it is only shown what has been checked, and always the same bytes: the
files may change at any time after (`renewal.py` notices).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from moorage.config import suites
from moorage.server.granian import Clients, Tls
from moorage.server.listen import Cannot
from moorage.server.sealed import Sealed

if TYPE_CHECKING:
    from moorage.config.sections.http import Tls as TlsSettings

__all__ = ["check", "files"]


def files(settings: TlsSettings) -> tuple[str, ...]:
    """The files that `check` reads, whose change means other certificates; none for plain HTTP."""
    if not settings.certificate or not settings.key:
        return ()
    return (settings.certificate, settings.key, *settings.clientcas)


def check(settings: TlsSettings, now: datetime | None = None) -> tuple[Tls | None, list[str]]:
    """What to serve with, None for plain HTTP, and warnings.  Raises `Cannot`.  `now` is aware."""
    if not settings.certificate and not settings.key:
        return None, []
    if not settings.certificate or not settings.key:
        raise Cannot(f"http.tls.{'certificate' if not settings.certificate else 'key'} is missing")
    from moorage.server import certificates  # noqa: PLC0415  heavy, and plain HTTP does without

    now = now or datetime.now(UTC)
    pair = certificates.pair(settings.certificate, settings.key, now)
    if settings.ciphersuites and settings.minimumtls != "tls1.3":
        left_out = suites.missing(settings.ciphersuites, pair.kind)
        if left_out:
            raise Cannot(f"http.tls.ciphersuites {suites.no_choice(left_out)}")
    warnings = list(pair.warnings)
    clients, pem = None, b""
    if settings.clientcas:
        found = certificates.authorities(settings.clientcas, now)
        warnings += found.warnings
        pem = found.pem
        required = settings.clientauth in {"", "require-and-verify-client-cert"}
        clients = Clients(Sealed("moorage client authorities", pem), required=required)
    identity = hashlib.sha256()
    for part in (pair.chain, pair.key, pem):
        identity.update(b"%d " % len(part) + part)
    tls = Tls(
        Sealed("moorage certificate", pair.chain),
        Sealed("moorage key", pair.key),
        settings.minimumtls,
        clients,
        identity.hexdigest(),
        pair.until,
    )
    return tls, warnings
