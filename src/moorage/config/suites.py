"""Cipher suites by Go's names: which there are, and which our TLS library always offers.

rustls, as Granian uses it, offers these six for TLS 1.2 and no others, and no setting of Granian's takes one away.
They are the reference's own defaults.  So a list is honoured when it names what is offered, and refused when it
asks for anything else: never taken and not heeded.  A server uses only the suites that its key can sign for, so
the others may be left out.  Those of TLS 1.3 cannot be chosen in Go either.

Source: reference/configuration.md section 9.1; crypto/tls of Go; rustls 0.23 with ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["KNOWN", "NEVER", "OFFERED", "missing", "no_choice"]

OFFERED: Final = {
    kind: tuple(
        f"TLS_ECDHE_{kind}_WITH_{cipher}"
        for cipher in ("AES_256_GCM_SHA384", "AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256")
    )
    for kind in ("RSA", "ECDSA")
}
"""For TLS 1.2, by the kind of the server's key; Ed25519 counts as ECDSA (RFC 8422)."""

_OTHER_NAMES: Final = {
    f"TLS_ECDHE_{kind}_WITH_CHACHA20_POLY1305": f"TLS_ECDHE_{kind}_WITH_CHACHA20_POLY1305_SHA256"
    for kind in ("RSA", "ECDSA")
}

_TLS13: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

NEVER: Final = frozenset(
    {
        *(
            f"TLS_{exchange}_WITH_{cipher}"
            for exchange in ("RSA", "ECDHE_RSA", "ECDHE_ECDSA")
            for cipher in ("AES_128_CBC_SHA", "AES_256_CBC_SHA", "AES_128_CBC_SHA256", "RC4_128_SHA")
        ),
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
    }
)
"""What some version of the reference takes and we do not offer: no forward secrecy, or no authenticated cipher."""

KNOWN: Final = frozenset({*OFFERED["RSA"], *OFFERED["ECDSA"], *_OTHER_NAMES, *_TLS13, *NEVER})


def missing(names: Iterable[str], kind: str) -> list[str]:
    """The suites that a server with this kind of key offers although they are not listed."""
    listed = {_OTHER_NAMES.get(name, name) for name in names}
    return [name for name in OFFERED[kind] if name not in listed]


def no_choice(left_out: Iterable[str]) -> str:
    """What is told to whoever left out one of those."""
    return (
        f"leaves out {' and '.join(left_out)}, which cannot be switched off; add them, remove the list, "
        "or set http.tls.minimumtls to tls1.3"
    )
