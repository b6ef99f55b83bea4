"""Keys that may sign tokens, and the ids by which tokens refer to them.

The key of a certificate has three ids, because token servers were written for two generations of CNCF
Distribution:

    RFC 7638 thumbprint          CNCF Distribution 3, and servers that use a JOSE library
    the same, coordinates cut    3 drops leading zeroes of elliptic coordinates: about one such key in 128 differs
    libtrust id                  CNCF Distribution 2, Docker's own token server

A key of a JWK Set has its `kid` as id; one without `kid` has the three ids above.  Each key is bound to the
algorithms of its type and size, so that a public key is never used as a secret.

Source: docs/reference/auth.md, section 4.4; RFC 7517 section 5, RFC 7518 section 3.1, RFC 7638;
libtrust's `keyIDFromCryptoKey`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey, thumbprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from joserfc.jwk import Key

__all__ = [
    "ALGORITHMS",
    "KeyFileInvalid",
    "TrustedKey",
    "TrustedKeys",
    "ids_of",
    "merge",
    "read_bundle",
    "read_jwks",
    "trust",
]

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_EC: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_HMAC: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Minimum size of the secret in bytes: that of the hash (RFC 7518 section 3.2)."""

ALGORITHMS: Final = frozenset({*_RSA, *_EC.values(), *_HMAC, "EdDSA"})
"""All supported algorithms; `none` is not among them."""

_RSA_MIN_BITS: Final = 1024
"""Minimum, as in Go since 1.24; RFC 7518 demands 2048, so smaller keys cause a warning."""
_RSA_GOOD_BITS: Final = 2048
_SHOWN_CHARS: Final = 80

_MEMBERS: Final = frozenset({"kty", "n", "e", "crv", "x", "y", "k"})
_FAMILIES: Final[dict[str, type[RSAKey | ECKey | OKPKey]]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class KeyFileInvalid(ValueError):
    """A file of keys is malformed; the message does not name the file."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key and the algorithms that it may be used with."""

    key: Key
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Keys of one file, or of all.

    `by_id` may have several keys of different types under one id (RFC 7517 section 4.5).  `roots` are the
    certificates of the bundle, to which chains in tokens must lead.  `notes` are for the log: keys left out, and
    why.
    """

    by_id: dict[str, tuple[TrustedKey, ...]]
    roots: tuple[x509.Certificate, ...] = ()
    notes: tuple[str, ...] = ()


def merge(parts: Iterable[TrustedKeys]) -> TrustedKeys:
    """Return the keys of all files."""
    by_id: dict[str, tuple[TrustedKey, ...]] = {}
    roots: list[x509.Certificate] = []
    notes: list[str] = []
    for part in parts:
        for key_id, found in part.by_id.items():
            by_id[key_id] = (*by_id.get(key_id, ()), *found)
        roots += part.roots
        notes += part.notes
    return TrustedKeys(by_id, tuple(roots), tuple(notes))


def read_bundle(data: bytes, allowed: frozenset[str]) -> TrustedKeys:
    """Return the keys of the certificates of a PEM file; other blocks are skipped.  Raises KeyFileInvalid."""
    if b"-----BEGIN CERTIFICATE-----" not in data:
        return TrustedKeys({}, (), ("it holds no certificate",))
    try:
        roots = x509.load_pem_x509_certificates(data)
        names = [f"certificate {root.subject.rfc4514_string()[:_SHOWN_CHARS]!r}" for root in roots]
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise KeyFileInvalid(f"a certificate in it cannot be read: {error}") from error
    by_id: dict[str, tuple[TrustedKey, ...]] = {}
    notes: list[str] = []
    for root, named in zip(roots, names, strict=True):
        try:
            public = root.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            notes.append(f"{named} is left out: {error}")
            continue
        trusted = trust(public, allowed)
        if isinstance(trusted, str):
            notes.append(f"{named} signs no token by itself: {trusted}")
            continue
        notes += _weakness(named, public)
        for key_id in ids_of(trusted.key):
            by_id[key_id] = (trusted,)
    return TrustedKeys(by_id, tuple(roots), tuple(notes))


def read_jwks(data: bytes, allowed: frozenset[str]) -> TrustedKeys:
    """Return the keys of a JWK Set, without unknown ones (RFC 7517 section 5).  Raises KeyFileInvalid."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KeyFileInvalid(f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise KeyFileInvalid('it is no JWK Set: expected {"keys": [...]}')
    by_id: dict[str, tuple[TrustedKey, ...]] = {}
    notes: list[str] = []
    for index, entry in enumerate(document["keys"]):
        named = f"key {index}"
        trusted = _of_jwk(entry, allowed)
        if isinstance(trusted, str):
            notes.append(f"{named} is left out: {trusted}")
            continue
        kid = entry.get("kid")
        notes += _weakness(named, trusted.key.public_key)
        if "d" in entry:
            notes.append(f"{named} holds its private part, which belongs to the token server alone")
        for key_id in (kid,) if kid else ids_of(trusted.key):
            by_id[key_id] = (*by_id.get(key_id, ()), trusted)
    return TrustedKeys(by_id, (), tuple(notes) if by_id or notes else ("it holds no key",))


def trust(public: object, allowed: frozenset[str]) -> TrustedKey | str:
    """Return a public key with the allowed algorithms that fit it, or the reason why it cannot be used."""
    key: Key
    if isinstance(public, RSAPublicKey):
        if public.key_size < _RSA_MIN_BITS:
            return f"an RSA key of {public.key_size} bits is no protection"
        # Not by `import_key`, which raises a Python warning for what `_weakness` reports to the operator.
        key, fitting = RSAKey(public, public), _RSA
    elif isinstance(public, EllipticCurvePublicKey):
        if public.curve.name not in _EC:
            return f"the curve {public.curve.name} is not among those of tokens"
        key, fitting = ECKey(public, public), frozenset({_EC[public.curve.name]})
    elif isinstance(public, Ed25519PublicKey):
        key, fitting = OKPKey(public, public), frozenset({"EdDSA"})
    else:
        return "expected an RSA, an elliptic or an Ed25519 key"
    return _bound(key, fitting, allowed)


def ids_of(key: Key) -> tuple[str, ...]:
    """Return the ids by which token servers refer to a key, without duplicates."""
    public = key.public_key
    if isinstance(public, bytes):
        return ()  # a secret has no public name
    ids = [key.thumbprint()]
    if isinstance(public, EllipticCurvePublicKey):
        numbers = public.public_numbers()
        x, y = (_unpadded(number) for number in (numbers.x, numbers.y))
        ids.append(thumbprint({"crv": str(key.get("crv")), "kty": "EC", "x": x, "y": y}))
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(spki).digest()[:30]).decode()
    ids.append(":".join(text[start : start + 4] for start in range(0, len(text), 4)))
    return tuple(dict.fromkeys(ids))


def _unpadded(number: int) -> str:
    """Return a number as Go's `big.Int.Bytes`: no leading zeroes."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _of_jwk(entry: object, allowed: frozenset[str]) -> TrustedKey | str:
    if not isinstance(entry, dict):
        return "expected an object"
    if not isinstance(entry.get("kid", ""), str):
        return "its kid is not text"
    if entry.get("use", "sig") != "sig":
        return "its use is not sig"
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or not {"sign", "verify"}.intersection(map(str, operations)):
        return "its key_ops are neither sign nor verify"
    # Members that were checked above are not passed to the library, which refuses to verify with a private key.
    bare = {name: value for name, value in entry.items() if name in _MEMBERS}
    if "alg" in entry:
        allowed &= frozenset({str(entry["alg"])})
    family = _FAMILIES.get(str(entry.get("kty")))
    try:
        if family is not None:
            return trust(family.import_key(bare).public_key, allowed)
        if entry.get("kty") == "oct":
            return _of_secret(bare, allowed) if entry.get("kid") else "a secret needs a kid"
    except (JoseError, ValueError, TypeError, KeyError, UnsupportedAlgorithm) as error:
        return f"it cannot be read ({type(error).__name__})"  # the text might hold parts of the key
    return "its kty is not known"


def _of_secret(members: dict[str, Any], allowed: frozenset[str]) -> TrustedKey | str:
    least = min(_HMAC.values())
    if not isinstance(members.get("k"), str) or len(members["k"]) * 6 < least * 8:
        return f"a secret needs {least} bytes at least"
    key = OctKey.import_key(members)
    fitting = frozenset(name for name, size in _HMAC.items() if len(key.raw_value) >= size)
    return _bound(key, fitting, allowed)


def _bound(key: Key, fitting: frozenset[str], allowed: frozenset[str]) -> TrustedKey | str:
    if not fitting & allowed:
        return f"it signs by {' or '.join(sorted(fitting))}, none of which is allowed"
    return TrustedKey(key, fitting & allowed)


def _weakness(named: str, public: object) -> list[str]:
    if isinstance(public, RSAPublicKey) and public.key_size < _RSA_GOOD_BITS:
        return [
            f"{named} has an RSA key of only {public.key_size} bits; RFC 7518 demands {_RSA_GOOD_BITS} at least"
        ]
    return []
