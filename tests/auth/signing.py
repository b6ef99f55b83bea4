"""Keys, certificates and tokens for tests: what a token server makes, right and wrong.

    signer = Signer.of("P-256")
    signer.token(claims(), kid=signer.libtrust)

Keys are made once per process, because an RSA key takes a good part of a second.  Tokens are put together here and
not by joserfc's own functions: those refuse to make much of what tests have to send.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ALGORITHM",
    "ISSUER",
    "SERVICE",
    "Signer",
    "b64",
    "certificate",
    "claims",
    "compact",
    "libtrust_id",
    "pem",
]

ISSUER: Final = "tests' token server"
SERVICE: Final = "registry.test"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
ALGORITHM: Final = {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
"""The usual algorithm of each kind of key that `Signer.of` takes."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**over: Any) -> dict[str, Any]:
    """Good for five minutes from now, for pulling `library/app`; None takes a claim away."""
    now = int(time.time())
    access = [{"type": "repository", "name": "library/app", "actions": ["pull"]}]
    usual = {"iss": ISSUER, "aud": SERVICE, "sub": "alice", "exp": now + 300, "nbf": now - 5, "access": access}
    return {name: value for name, value in {**usual, **over}.items() if value is not None}


def compact(
    header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes, key: Any, algorithm: str
) -> str:
    """Return a token with any header and payload, signed."""
    head, body = (
        b64(part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode())
        for part in (header, payload)
    )
    signature = JWSRegistry.algorithms[algorithm].sign(f"{head}.{body}".encode(), key)
    return f"{head}.{body}.{b64(signature)}"


def certificate(
    subject: str,
    key: PrivateKey,
    issuer: str | None = None,
    issuer_key: PrivateKey | None = None,
    *,
    authority: bool | None = None,
    path_length: int | None = None,
    usage: x509.KeyUsage | None = None,
    begin: float | None = None,
    end: float | None = None,
) -> x509.Certificate:
    """Return a certificate: self-signed without `issuer`, by default valid an hour before and after now."""
    now = time.time()
    signing = issuer_key or key

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def moment(seconds: float) -> dt.datetime:
        return dt.datetime.fromtimestamp(seconds, dt.UTC)

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer or subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(now - 3600 if begin is None else begin))
        .not_valid_after(moment(now + 3600 if end is None else end))
    )
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(authority, path_length), critical=True)
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(signing, None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(found.public_bytes(Encoding.PEM) for found in certificates)


def libtrust_id(key: PrivateKey) -> str:
    """As Docker's libtrust names keys: written anew from its source, to compare with."""
    data = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(data).digest()[:30]).decode()
    groups = [text[start : start + 4] for start in range(0, 48, 4)]
    assert len(groups) == 12
    return ":".join(groups)


@functools.cache
def _signer(kind: str, number: int) -> Signer:
    private: PrivateKey
    if kind == "RSA":
        private = rsa.generate_private_key(65537, 2048)
    elif kind == "Ed25519":
        private = ed25519.Ed25519PrivateKey.generate()
    else:
        private = ec.generate_private_key(_CURVES[kind])
    return Signer(private, certificate(f"signer {kind} {number}", private), ALGORITHM[kind])


@dataclass(frozen=True)
class Signer:
    """A private key, a self-signed certificate of it (no CA, no names), and the algorithm it signs with."""

    private: PrivateKey
    certificate: x509.Certificate
    algorithm: str

    @classmethod
    def of(cls, kind: str, number: int = 0) -> Signer:
        """`RSA`, `P-256`, `P-384`, `P-521` or `Ed25519`; another number is another key."""
        return _signer(kind, number)

    @functools.cached_property
    def key(self) -> RSAKey | ECKey | OKPKey:
        if isinstance(self.private, rsa.RSAPrivateKey):
            return RSAKey(self.private, self.private)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return ECKey(self.private, self.private)
        return OKPKey(self.private, self.private)

    @property
    def thumbprint(self) -> str:
        return self.key.thumbprint()

    @property
    def libtrust(self) -> str:
        return libtrust_id(self.private)

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        return dict(self.key.as_dict(private=False))

    @property
    def x5c(self) -> list[str]:
        return [base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()]

    def header(self, form: str) -> dict[str, Any]:
        """How the token names its key: a form that one or both generations of the reference take."""
        forms: dict[str, dict[str, Any]] = {
            "thumbprint": {"kid": self.thumbprint},
            "libtrust": {"kid": self.libtrust},
            "x5c": {"x5c": self.x5c},
            "jwk": {"jwk": self.jwk},
            "jwk with thumbprint": {"jwk": {**self.jwk, "kid": self.thumbprint}},
            "jwk with libtrust": {"jwk": {**self.jwk, "kid": self.libtrust}},
            "jwk with x5c": {"jwk": {**self.jwk, "x5c": self.x5c}},
        }
        return forms[form]

    def token(self, payload: Mapping[str, Any] | bytes, **header: Any) -> str:
        """Signed, with `header` beside `typ` and `alg`; without one, by `x5c`.  An `alg` is also what signs."""
        shown = {"typ": "JWT", "alg": self.algorithm, **(header or {"x5c": self.x5c})}
        return compact(shown, payload, self.key, shown["alg"])
