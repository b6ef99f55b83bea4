"""Contexts of Python's `ssl` for the listener, made from what `tls.check` has read and judged.

    ClientHello ─► default context ─► SNI: a certificate of `Tls.more` that names the host, else the default one

All contexts of one `Tls` agree in everything but the certificate: of the context that is chosen by SNI, OpenSSL
uses certificate, suites and authorities; versions, options and session tickets are those of the default context.

No preference of the server among the default suites: all of them are strong, and the client knows which one its
processor is fast at.  A configured list is a preference; a client that prefers ChaCha20 still gets it.

Sessions: tickets are encrypted with a key that each context makes for itself.  So a session can be resumed in the
worker that began it, until the certificate, the key or the authorities change.
"""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING, Any, Final

from moorage.config import suites
from moorage.server.cannot import Cannot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moorage.server.options import Tls
    from moorage.server.sealed import Sealed

__all__ = ["host_of", "make_context", "matching"]

_PRIORITIZE_CHACHA: Final = 0x00200000
"""SSL_OP_PRIORITIZE_CHACHA, which `ssl` does not name."""


def make_context(tls: Tls) -> ssl.SSLContext:
    """Return the context for new connections.  Raises `Cannot` where OpenSSL refuses a certificate or a suite."""
    default = _context(tls, tls.certificate, tls.key, tls.names)
    if tls.more:
        others = [_context(tls, pair.certificate, pair.key, pair.names) for pair in tls.more]
        default.sni_callback = _choose_by_name(tls, others)
        _ignore_malformed_names()
    return default


def _context(tls: Tls, certificate: Sealed, key: Sealed, names: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.minimum == "tls1.3" else ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _set_suites(context, tls.suites)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate.path, key.path)
    except ssl.SSLError as error:
        whose = f"for {', '.join(names)}" if names else "without names"
        raise Cannot(f"http.tls: OpenSSL cannot serve the certificate {whose}: {_reason(error)}") from error
    if tls.clients is not None:
        try:
            context.load_verify_locations(tls.clients.authorities.path)
        except ssl.SSLError as error:
            raise Cannot(f"http.tls.clientcas: OpenSSL cannot use the authorities: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED if tls.clients.required else ssl.CERT_OPTIONAL
        # As in Go: each listed certificate is trusted by itself, so an intermediate will do without its root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _set_suites(context: ssl.SSLContext, chosen: tuple[str, ...]) -> None:
    """Raises `Cannot` for a listed suite that OpenSSL does not offer, by its build or its security level."""
    if not chosen:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(":".join(suites.DEFAULT))
        return
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | _PRIORITIZE_CHACHA
    try:
        context.set_ciphers(":".join(chosen))
        offered = {cipher["name"] for cipher in context.get_ciphers()}
    except ssl.SSLError:
        offered = set()
    missing = [suites.go_name(name) for name in chosen if name not in offered]
    if missing:
        raise Cannot(
            f"http.tls.ciphersuites: {' and '.join(missing)} cannot be offered by {ssl.OPENSSL_VERSION} at "
            f"security level {context.security_level}; remove it"
        )


# Server Name Indication


def host_of(name: str) -> str:
    """Return a host name as it is compared: in lower case, without a dot at its end."""
    return name.lower().removesuffix(".")


def matching(table: dict[str, int], name: str) -> int:
    """Return the number under a host name, or under the wildcard that covers it; 0 for all other names."""
    host = host_of(name)
    found = table.get(host)
    if found is None:
        _, _, parent = host.partition(".")
        found = table.get(f"*.{parent}")
    return found or 0


def _choose_by_name(tls: Tls, others: list[ssl.SSLContext]) -> Callable[[Any, str | None, Any], None]:
    """Return the callback of OpenSSL; of several certificates for one name the first is served."""
    table: dict[str, int] = {}
    for number, names in enumerate((tls.names, *(pair.names for pair in tls.more))):
        for name in names:
            table.setdefault(host_of(name), number)

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        number = matching(table, name) if name else 0
        if number:
            connection.context = others[number - 1]

    return choose


def _ignore_malformed_names() -> None:
    """Keep host names that are no ASCII or no DNS name from filling the log with tracebacks.

    Python decodes the name before the callback and reports a failure to `sys.unraisablehook`; the handshake fails
    with an alert, and is logged as any other.
    """
    if getattr(sys.unraisablehook, "ignores_names", False):
        return
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, UnicodeError):
            report(unraisable)

    hook.ignores_names = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL reports, in words."""
    reason = error.reason or str(error)
    return {
        "EE_KEY_TOO_SMALL": "its key is too small for OpenSSL's security level, which needs 2048 bits of RSA",
        "CA_KEY_TOO_SMALL": "the key of an intermediate is too small for OpenSSL's security level",
        "CA_MD_TOO_WEAK": "the signature of an intermediate is too weak for OpenSSL's security level",
        "EE_MD_TOO_WEAK": "its signature is too weak for OpenSSL's security level",
    }.get(reason, reason.replace("_", " ").lower())
