"""Keys and certificates in the format of Go's `autocert`, both read and written.

    -----BEGIN EC PRIVATE KEY-----        the key first, as SEC 1 (RFC 5915)
    -----BEGIN CERTIFICATE-----           then the server's certificate and its chain, and not a blank line after

CNCF Distribution 3 and Moorage read the files of each other, so that either can take over the directory.
Distribution accepts a certificate only with an EC key, for the right host, and valid now.

Source: golang.org/x/crypto/acme/autocert, `cacheGet`, `cachePut`, `validCert`; RFC 8737 section 3 (TLS-ALPN).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

__all__ = [
    "IssuedCertificate",
    "account_key",
    "challenge_certificate",
    "key_pem",
    "new_key",
    "read",
    "request",
    "write",
]

_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTET_STRING: Final = b"\x04\x20"
_COMMON_NAME_LIMIT: Final = 64
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """Facts of a certificate in the directory.  `hosts` are in lower case."""

    hosts: frozenset[str]
    begin: datetime
    end: datetime
    issuer: str


def read(data: bytes) -> IssuedCertificate | None:
    """Return the certificate in a file; None if the content is not a key with its certificate."""
    try:
        key = load_pem_private_key(data, None)
        chain = x509.load_pem_x509_certificates(data)
        leaf = chain[0]
        if _public(key.public_key()) != _public(leaf.public_key()):
            return None
        if data.count(b"-----BEGIN ") != 1 + len(chain):
            # Cut off within the chain, which the library ignores and clients do not.
            return None
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    return IssuedCertificate(
        hosts, leaf.not_valid_before_utc, leaf.not_valid_after_utc, leaf.issuer.rfc4514_string()
    )


def write(key: ec.EllipticCurvePrivateKey, chain: str) -> bytes:
    """Return the content of a file; `chain` is from the authority.  Raises ValueError if it is not for `key`."""
    found = x509.load_pem_x509_certificates(chain.encode())
    if _public(found[0].public_key()) != _public(key.public_key()):
        raise ValueError("the certificate is for another key")
    return key_pem(key) + b"".join(one.public_bytes(Encoding.PEM) for one in found)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def account_key(data: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None:
    """Return the key of an account; None unless it is of a kind that ACME servers accept."""
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None


def request(key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...]) -> bytes:
    """Return a certificate signing request as PEM; its subject is the first host, unless that is too long."""
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])] if len(hosts[0]) <= _COMMON_NAME_LIMIT else []
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    builder = x509.CertificateSigningRequestBuilder(x509.Name(subject)).add_extension(names, critical=False)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def challenge_certificate(host: str, key_authorization: str, now: datetime) -> bytes:
    """Return key and certificate that answer a TLS-ALPN-01 challenge."""
    key = new_key()
    digest = hashlib.sha256(key_authorization.encode()).digest()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "moorage ACME challenge")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(now.astimezone(UTC) - _DAY)
        .not_valid_after(now.astimezone(UTC) + 7 * _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, _OCTET_STRING + digest), critical=True)
        .sign(key, SHA256())
    )
    return key_pem(key) + certificate.public_bytes(Encoding.PEM)


def _public(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        # Authorities certify no other kinds, and `autocert` stores no other.
        raise UnsupportedAlgorithm("not a key of TLS servers")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
