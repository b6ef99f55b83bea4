"""`ssl.SSLContext` objects of the listener, made from the certificates that `tls.check` has validated.

    ClientHello ─► its host name ─► the first certificate that names the host, else the default one

The name is read before the handshake (`server/http1/client_hello.py`).  The callback of `ssl` would abort the
handshake of a client that sends a name that is not ASCII; TLS does not require that, and with one certificate
it is served.

The default suites have no server preference: all of them are strong, and the client prefers the one that is
fast on its processor.  A configured list is in order of preference; a client that prefers ChaCha20 still gets it.

Sessions: tickets are encrypted with a random key of each context.  So a session can be resumed in the
worker that began it and with the certificate that it began with, until a certificate, a key or the authorities
change.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from moorage.config import cipher_suites
from moorage.server.http1.client_hello import HTTP
from moorage.server.options import Pair
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.server.options import TlsOptions
    from moorage.server.tls.memfd import SealedMemory

__all__ = ["Contexts", "host_of", "make_contexts", "matching"]

_PRIORITIZE_CHACHA: Final = 0x00200000
"""SSL_OP_PRIORITIZE_CHACHA, which `ssl` does not name."""


class Contexts:
    """One context for each certificate; of several certificates for one name the first is served."""

    def __init__(self, contexts: Sequence[ssl.SSLContext], names: Iterable[Sequence[str]]) -> None:
        self._contexts = tuple(contexts)
        self._table: dict[str, int] = {}
        for number, hosts in enumerate(names):
            for host in hosts:
                self._table.setdefault(host_of(host), number)

    @property
    def depend_on_names(self) -> bool:
        return len(self._contexts) > 1

    def for_host(self, name: str) -> ssl.SSLContext:
        """Return the context for a requested host name; the default one for "" and for unknown names."""
        return self._contexts[matching(self._table, name)]


def make_contexts(tls: TlsOptions) -> Contexts:
    """Return the contexts for new connections.  Raises StartupError if OpenSSL refuses a certificate or suite."""
    pairs = (Pair(tls.certificate, tls.key, tls.names), *tls.more)
    contexts = [_context(tls, pair.certificate, pair.key, pair.names) for pair in pairs]
    return Contexts(contexts, (pair.names for pair in pairs))


def _context(
    tls: TlsOptions, certificate: SealedMemory, key: SealedMemory, names: Sequence[str]
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.minimum == "tls1.3" else ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _set_suites(context, tls.suites)
    context.set_alpn_protocols([protocol.decode() for protocol in HTTP])
    try:
        context.load_cert_chain(certificate.path, key.path)
    except OSError as error:  # of which ssl.SSLError is one
        whose = f"for {', '.join(names)}" if names else "without names"
        raise StartupError(
            f"OpenSSL cannot serve the certificate {whose}: {_reason(error)}", "http.tls"
        ) from error
    if tls.clients is not None:
        try:
            context.load_verify_locations(tls.clients.authorities.path)
        except OSError as error:
            raise StartupError(
                f"http.tls.clientcas: OpenSSL cannot use the authorities: {_reason(error)}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED if tls.clients.required else ssl.CERT_OPTIONAL
        # As in Go: each listed certificate is trusted by itself, an intermediate also without its root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _set_suites(context: ssl.SSLContext, chosen: tuple[str, ...]) -> None:
    """Set the suites of TLS 1.2.  Raises `StartupError` for a listed one that this OpenSSL does not offer."""
    if not chosen:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(":".join(cipher_suites.DEFAULT))
        return
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | _PRIORITIZE_CHACHA
    try:
        context.set_ciphers(":".join(chosen))
        offered = {cipher["name"] for cipher in context.get_ciphers()}
    except ssl.SSLError:
        offered = set()
    missing = [cipher_suites.go_name(name) for name in chosen if name not in offered]
    if missing:
        raise StartupError(
            f"http.tls.ciphersuites: {' and '.join(missing)} cannot be offered by {ssl.OPENSSL_VERSION} at "
            f"security level {context.security_level}; remove it"
        )


# Server Name Indication


def host_of(name: str) -> str:
    """Return a normalised host name: lower case, without a trailing dot."""
    return name.lower().removesuffix(".")


def matching(table: dict[str, int], name: str) -> int:
    """Return the table entry of a host name or of its wildcard; 0 for all other names."""
    host = host_of(name)
    found = table.get(host)
    if found is None:
        _, _, parent = host.partition(".")
        found = table.get(f"*.{parent}")
    return found or 0


def _reason(error: OSError) -> str:
    """Return the reason of OpenSSL or of the system as text."""
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    reason = error.reason or str(error)
    return {
        "EE_KEY_TOO_SMALL": "its key is too small for OpenSSL's security level, which needs 2048 bits of RSA",
        "CA_KEY_TOO_SMALL": "the key of an intermediate is too small for OpenSSL's security level",
        "CA_MD_TOO_WEAK": "the signature of an intermediate is too weak for OpenSSL's security level",
        "EE_MD_TOO_WEAK": "its signature is too weak for OpenSSL's security level",
    }.get(reason, reason.replace("_", " ").lower())
