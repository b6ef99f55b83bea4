"""Certificates as they lie in the directory, from an authority of the tests' own."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

__all__ = ["Authority", "autocert_holds"]


class Authority:
    """Issues what an ACME server would."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        self.certificate = self._signed(
            self._name, self._key.public_key(), (), timedelta(days=-1), timedelta(days=9)
        )

    def client(self) -> ssl.SSLContext:
        """Trust in what it issues."""
        return ssl.create_default_context(cadata=self.certificate.public_bytes(Encoding.PEM).decode())

    def issue(
        self, *hosts: str, begin: timedelta = timedelta(hours=-1), end: timedelta = timedelta(days=60)
    ) -> bytes:
        """A file of the directory: key and chain.  The times are from now on."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._signed(x509.Name([]), key.public_key(), hosts, begin, end)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        return pem + leaf.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM)

    def sign(self, request: bytes, end: timedelta = timedelta(days=60)) -> str:
        """The chain for a certificate signing request."""
        requested = x509.load_pem_x509_csr(request)
        names = requested.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
        key = requested.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        leaf = self._signed(x509.Name([]), key, hosts, timedelta(hours=-1), end)
        return "\n".join(one.public_bytes(Encoding.PEM).decode() for one in (leaf, self.certificate))

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, hosts: object, begin: timedelta, end: timedelta
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        assert isinstance(hosts, tuple | list)
        builder = (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
            builder = builder.add_extension(names, critical=not subject.rdns)
        return builder.sign(self._key, SHA256())


def autocert_holds(data: bytes, host: str) -> None:
    """Assert what Go's `autocert` asks of a file before it serves it (`cacheGet`, `validCert`)."""
    head, _, rest = data.partition(b"-----END EC PRIVATE KEY-----\n")
    assert head.startswith(b"-----BEGIN EC PRIVATE KEY-----\n")
    chain = x509.load_pem_x509_certificates(rest)
    # `pem.Decode` must leave nothing over, not even a blank line.
    assert rest == b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    leaf = chain[0]
    assert leaf.not_valid_before_utc <= datetime.now(UTC) <= leaf.not_valid_after_utc
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in names.get_values_for_type(x509.DNSName)
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
