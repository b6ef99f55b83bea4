"""HTTPS: the files that the settings name become what every worker of a plan serves.

    files ──certificates.py──► checked, in one form ──sealed.py──► read by rustls in each worker

Granian panics on anything it cannot use, so it is only shown what has been checked, and always the same bytes: the
files may change at any time after (`renewal.py` notices).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from moorage.acme.wanted import served_file
from moorage.config import suites
from moorage.server.cannot import Cannot
from moorage.server.options import Clients, Tls
from moorage.server.sealed import Sealed

if TYPE_CHECKING:
    from moorage.config.sections.http import Tls as TlsSettings

__all__ = ["Awaited", "check", "files"]


class Awaited(Cannot):
    """`http.tls.letsencrypt` has not brought a certificate that can be served, yet."""


def files(settings: TlsSettings) -> tuple[str, ...]:
    """The files that `check` reads, whose change means other certificates; none for plain HTTP."""
    certificate, key = _named(settings)
    if not certificate or not key:
        return ()
    return (*dict.fromkeys((certificate, key)), *settings.clientcas)


def check(settings: TlsSettings, now: datetime | None = None) -> tuple[Tls | None, list[str]]:
    """What to serve with, None for plain HTTP, and warnings.  `now` is aware.  Raises `Cannot`, `Awaited` last."""
    certificate, key = _named(settings)
    if not certificate and not key:
        return None, []
    if not certificate or not key:
        raise Cannot(f"http.tls.{'certificate' if not certificate else 'key'} is missing")
    from moorage.server import certificates  # noqa: PLC0415  heavy, and plain HTTP does without

    now = now or datetime.now(UTC)
    warnings = []
    clients, pem = None, b""
    if settings.clientcas:
        found = certificates.authorities(settings.clientcas, now)
        warnings += found.warnings
        pem = found.pem
        required = settings.clientauth in {"", "require-and-verify-client-cert"}
        clients = Clients(Sealed("moorage client authorities", pem), required=required)
    try:
        pair = certificates.pair(certificate, key, now)
    except Cannot as error:
        if not settings.letsencrypt.cachefile:
            raise
        _check_suites(settings, "ECDSA")
        raise Awaited(str(error)) from error
    _check_suites(settings, pair.kind)
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
        pair.subject,
    )
    return tls, pair.warnings + warnings


def _named(settings: TlsSettings) -> tuple[str, str]:
    """Files of certificate and key; ACME's are one."""
    acme = settings.letsencrypt
    if acme.cachefile:
        served = served_file(acme.cachefile, acme.names)
        return served, served
    return settings.certificate, settings.key


def _check_suites(settings: TlsSettings, kind: str) -> None:
    """Raises `Cannot` if none is left for a key of this kind."""
    if settings.ciphersuites and settings.minimumtls != "tls1.3":
        left_out = suites.missing(settings.ciphersuites, kind)
        if left_out:
            raise Cannot(f"http.tls.ciphersuites {suites.no_choice(left_out)}")
