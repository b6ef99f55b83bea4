"""Certificates of every kind for tests: made in memory, written where a test wants them."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

    Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

NOW: Final = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY: Final = dt.timedelta(days=1)
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH


def new_key(kind: str = "P-256") -> Key:
    """`P-256`, `P-384`, `P-521`, `secp256k1`, `Ed25519`, `Ed448`, or `RSA-2048`."""
    name, _, bits = kind.partition("-")
    if name == "RSA":
        return rsa.generate_private_key(65537, int(bits))
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "secp256k1": ec.SECP256K1(),
    }  # fmt: skip
    return ec.generate_private_key(curves[kind])


@dataclass
class Holder:
    """A certificate, its key, and those above it that a server sends along, nearest first."""

    certificate: x509.Certificate
    key: Key
    above: list[Holder] = field(default_factory=list)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain(self) -> bytes:
        return self.pem + b"".join(one.pem for one in self.above)

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def key_pem(self, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> bytes:
        locked = BestAvailableEncryption(password) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, form, locked)

    def write(self, folder: Path, name: str) -> dict[str, str]:
        """`NAME.crt` with the chain and `NAME.key`; their paths, as `http.tls` names them."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.chain)
        key.write_bytes(self.key_pem())
        return {"certificate": str(certificate), "key": str(key)}

    def issue(
        self,
        name: str,
        *,
        kind: str = "P-256",
        key: Key | None = None,
        authority: bool = False,
        **options: object,
    ) -> Holder:
        """A certificate signed by this one; `options` are those of `certificate`."""
        key = key or new_key(kind)
        made = certificate(name, key, issuer=self, authority=authority, **options)  # type: ignore[arg-type]
        # The root is what clients have already.
        above = [self, *self.above] if self.certificate.issuer != self.certificate.subject else []
        return Holder(made, key, above)


def root(name: str = "test CA", *, kind: str = "P-256", **options: object) -> Holder:
    """An authority that signs itself."""
    key = new_key(kind)
    return Holder(certificate(name, key, authority=True, **options), key)  # type: ignore[arg-type]


def self_signed(name: str = "registry.test", *, kind: str = "P-256", **options: object) -> Holder:
    """What `openssl req -x509` makes."""
    key = new_key(kind)
    return Holder(certificate(name, key, **options), key)  # type: ignore[arg-type]


def certificate(
    name: str,
    key: Key,
    *,
    issuer: Holder | None = None,
    authority: bool = False,
    begin: dt.datetime = NOW - DAY,
    end: dt.datetime = NOW + 100 * DAY,
    hosts: tuple[str, ...] = ("localhost", "registry.test", "127.0.0.1", "::1"),
    usage: x509.ObjectIdentifier | None = None,
    critical: x509.ExtensionType | None = None,
) -> x509.Certificate:
    """`hosts` are for subjectAltName, `usage` for extendedKeyUsage, `critical` is one extension more."""
    above = issuer.certificate.subject if issuer else _named(name)
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(above)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if hosts and not authority:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False
        )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    edwards = isinstance(signer, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(signer, None if edwards else hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.RFC822Name(host) if "@" in host else x509.DNSName(host)
