"""Cipher suites: Go's names, which the settings use, and OpenSSL's, which the server uses.

Only suites of TLS 1.2 can be selected.  All three of TLS 1.3 are always offered: neither Go nor Python before 3.15
can omit one.  So a list with all three of them is accepted without effect, and one with some of them is refused.

Source: docs/reference/configuration.md, section 9.1; crypto/tls of Go (`CipherSuites`, `InsecureCipherSuites`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEFAULT", "INSECURE", "KNOWN", "OFFERED", "OPENSSL", "TLS13", "for_kind", "go_name", "to_openssl"]

_CIPHERS: Final = {
    "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
}
_CBC: Final = {"AES_256_CBC_SHA": "AES256-SHA", "AES_128_CBC_SHA": "AES128-SHA"}
_KINDS: Final = ("RSA", "ECDSA")

OFFERED: Final = {kind: tuple(f"TLS_ECDHE_{kind}_WITH_{cipher}" for cipher in _CIPHERS) for kind in _KINDS}
"""Offered without a list, by the kind of the server's key; Ed25519 and Ed448 count as ECDSA (RFC 8422)."""

OPENSSL: Final = {
    **{
        f"TLS_ECDHE_{kind}_WITH_{cipher}": f"ECDHE-{kind}-{name}"
        for kind in _KINDS
        for cipher, name in (_CIPHERS | _CBC).items()
    },
    **{f"TLS_ECDHE_{kind}_WITH_CHACHA20_POLY1305": f"ECDHE-{kind}-CHACHA20-POLY1305" for kind in _KINDS},
}
"""OpenSSL's name of each supported suite.  ChaCha20 has two names in Go."""

DEFAULT: Final = tuple(OPENSSL[name] for kind in reversed(_KINDS) for name in OFFERED[kind])

TLS13: Final = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

INSECURE: Final = frozenset(
    {
        *(
            f"TLS_RSA_WITH_{cipher}"
            for cipher in ("AES_128_CBC_SHA", "AES_256_CBC_SHA", "AES_128_CBC_SHA256", "RC4_128_SHA")
        ),
        *(
            f"TLS_ECDHE_{kind}_WITH_{cipher}"
            for kind in _KINDS
            for cipher in ("AES_128_CBC_SHA256", "RC4_128_SHA")
        ),
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
    }
)
"""Suites of CNCF Distribution without forward secrecy, or insecure according to Go; not offered."""

KNOWN: Final = frozenset({*OPENSSL, *TLS13, *INSECURE})


def to_openssl(names: Iterable[str]) -> tuple[str, ...]:
    """Return OpenSSL's names of a list's suites for TLS 1.2, in the same order."""
    return tuple(dict.fromkeys(OPENSSL[name] for name in names if name in OPENSSL))


def for_kind(names: Iterable[str], kind: str) -> list[str]:
    """Return the listed suites that a server with a key of this kind can use."""
    return [name for name in names if name.startswith(f"TLS_ECDHE_{kind}_") and name in OPENSSL]


def go_name(openssl: str) -> str:
    """Return Go's name of a suite."""
    return next(name for name, other in OPENSSL.items() if other == openssl)
