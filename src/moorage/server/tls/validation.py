"""TLS configuration: validates the files of `http.tls` and makes them available to all workers.

    files ──certificates.py──► validated ──memfd.py──► memfd, loaded by contexts.py in each worker

OpenSSL loads everything once in the master, so that no worker fails on it, and workers load the same bytes: the
files may change at any time (`file_watch.py` detects it).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from moorage.acme.order_spec import served_file
from moorage.config import cipher_suites
from moorage.server.options import ClientCertificates, Pair, TlsOptions
from moorage.server.tls.memfd import SealedMemory
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage.config.sections.http import Tls as TlsSettings
    from moorage.server.tls import certificates

__all__ = ["Awaited", "check", "files"]


class Awaited(StartupError):
    """`http.tls.letsencrypt` has not obtained a usable certificate yet."""


def files(settings: TlsSettings) -> tuple[str, ...]:
    """Return the files that `check` reads; none for plain HTTP."""
    certificate, key = _paths(settings)
    if not certificate or not key:
        return ()
    more = [path for pair in settings.certificates for path in (pair.certificate, pair.key)]
    return (*dict.fromkeys((certificate, key, *more)), *settings.clientcas)


def check(settings: TlsSettings, now: datetime | None = None) -> tuple[TlsOptions | None, list[str]]:
    """Return the TLS configuration (None for plain HTTP) and warnings.

    `now` is an aware time.  Raises `StartupError`; `Awaited` only if nothing else is wrong.
    """
    certificate, key = _paths(settings)
    if not certificate and not key:
        return None, []
    if not certificate or not key:
        raise StartupError(f"http.tls.{'certificate' if not certificate else 'key'} is missing")
    from moorage.server.tls import certificates  # noqa: PLC0415  heavy, and plain HTTP does without

    now = now or datetime.now(UTC)
    warnings = []
    clients, pem = None, b""
    if settings.clientcas:
        found = certificates.authorities(settings.clientcas, now)
        warnings += found.warnings
        pem = found.pem
        required = settings.clientauth in {"", "require-and-verify-client-cert"}
        clients = ClientCertificates(SealedMemory("moorage client authorities", pem), required=required)
    more = [
        certificates.pair(one.certificate, one.key, now, f"http.tls.certificates[{index}]")
        for index, one in enumerate(settings.certificates)
    ]
    try:
        pair = certificates.pair(certificate, key, now)
    except StartupError as error:
        if not settings.letsencrypt.cachefile:
            raise
        _check_suites(settings, ["ECDSA"])
        raise Awaited(str(error)) from error
    pairs = [pair, *more]
    _check_suites(settings, [one.kind for one in pairs])
    tls = _sealed(settings, pairs, clients, pem)
    _check_by_openssl(tls)
    return tls, [warning for one in pairs for warning in one.warnings] + warnings + list(_unserved(pairs))


def _sealed(
    settings: TlsSettings,
    pairs: Sequence[certificates.ValidatedPair],
    clients: ClientCertificates | None,
    authorities: bytes,
) -> TlsOptions:
    identity = hashlib.sha256()
    for part in (*(part for pair in pairs for part in (pair.chain, pair.key)), authorities):
        identity.update(b"%d " % len(part) + part)
    sealed = [
        Pair(SealedMemory("moorage certificate", pair.chain), SealedMemory("moorage key", pair.key), pair.names)
        for pair in pairs
    ]  # fmt: skip
    default = sealed[0]
    first = min(pairs, key=lambda pair: pair.until)
    return TlsOptions(
        default.certificate,
        default.key,
        settings.minimumtls,
        clients,
        identity.hexdigest(),
        first.until,
        first.subject,
        default.names,
        () if settings.minimumtls == "tls1.3" else cipher_suites.to_openssl(settings.ciphersuites),
        tuple(sealed[1:]),
    )


def _paths(settings: TlsSettings) -> tuple[str, str]:
    """Return the paths of certificate and key; with ACME both are one file."""
    acme = settings.letsencrypt
    if acme.cachefile:
        served = served_file(acme.cachefile, acme.names)
        return served, served
    return settings.certificate, settings.key


def _check_suites(settings: TlsSettings, kinds: Sequence[str]) -> None:
    """Raise `StartupError` if the configured suites have none for a key of one of these kinds."""
    if not settings.ciphersuites or settings.minimumtls == "tls1.3":
        return
    for kind in kinds:
        if not cipher_suites.for_kind(settings.ciphersuites, kind):
            key = "an RSA key" if kind == "RSA" else "an EC or Ed25519 key"
            offered = ", ".join(cipher_suites.OFFERED[kind])
            raise StartupError(
                f"http.tls.ciphersuites names no suite that a server with {key} can use, so no client could "
                f"connect with TLS 1.2; add one of {offered}, remove the list, or set "
                "http.tls.minimumtls to tls1.3"
            )


def _check_by_openssl(tls: TlsOptions) -> None:
    """Raise `StartupError` if OpenSSL refuses to load the files at its security level."""
    from moorage.server.tls.contexts import make_contexts  # noqa: PLC0415  plain HTTP does without

    make_contexts(tls)


def _unserved(pairs: Sequence[certificates.ValidatedPair]) -> Iterator[str]:
    """Yield warnings about certificates that SNI can never select."""
    taken = set(pairs[0].names)
    for index, pair in enumerate(pairs[1:]):
        if taken.issuperset(pair.names):
            reason = "its names are those of certificates before it" if pair.names else "it has no host names"
            yield f"http.tls.certificates[{index}] is never served: {reason}"
        taken.update(pair.names)
