"""Reads and validates the files of `http.tls`: private keys, certificate chains, client CAs.

OpenSSL is given one normalised form: the key as PKCS#8, the chain from the leaf up, no comments, no other blocks.
A pair that no client can use is refused here with a reason, and one that OpenSSL does not load by `tls.check`.
A certificate that clients may reject (expired, no subjectAltName) is served with a warning: the registry stays up
for those that accept it.

Invariant: no message contains key material.

Imports `cryptography` (50 ms, 18 MB): to be imported only where TLS is configured.  Above: `validation.py`.
Source: RFC 8446 section 4.4.2 (order), RFC 5280, RFC 5915, RFC 5958, RFC 7468 (PEM); Go's crypto/tls, crypto/x509.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from moorage.reloading import read_regular
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

__all__ = ["Authorities", "ValidatedPair", "authorities", "pair"]

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_CERTIFICATES: Final = {b"CERTIFICATE", b"X509 CERTIFICATE"}
_DER: Final = b"\x30"
_SOON: Final = timedelta(days=14)
_WEAK_BITS: Final = 2048
"""Minimum of OpenSSL's security level 2, which Python sets, and of clients."""

_GO_BITS: Final = 8192
_CURVES: Final = {"secp256r1", "secp384r1", "secp521r1"}
"""Curves with a signature scheme in TLS 1.3 and support in TLS 1.2 clients."""

_AUTHORITY_CURVE_BITS: Final = 224
_UNDERSTOOD: Final = {
    ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.NAME_CONSTRAINTS, ExtensionOID.CRL_DISTRIBUTION_POINTS,
    ExtensionOID.CERTIFICATE_POLICIES, ExtensionOID.SUBJECT_KEY_IDENTIFIER,
}  # fmt: skip
"""Critical extensions that Go clients accept; they reject a certificate with any other."""

_BROKEN_HASHES: Final = {"md5", "sha1"}
_UNREADABLE: Final = (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True, slots=True)
class ValidatedPair:
    """A certificate chain and its key as PEM.

    `kind` is the authentication part of the cipher suites' names, `names` are the host names of the certificate.
    """

    chain: bytes
    key: bytes
    kind: str
    until: datetime
    subject: str
    names: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Client CAs as PEM."""

    pem: bytes
    warnings: list[str] = field(default_factory=list)


def pair(certificate: str, key: str, now: datetime, section: str = "http.tls") -> ValidatedPair:
    """Read and validate the certificate and key files of a section of the settings.  Raises `StartupError`."""
    found = _certificates(f"{section}.certificate", certificate)
    private = _key(f"{section}.key", key)
    chain, warnings = _chain(section, certificate, found, key, private)
    leaf = chain[0]
    warnings += _warnings(f"the certificate {certificate}", leaf, now)
    for above in chain[1:]:
        warnings += _warnings(f"the intermediate {_name(above)} in {certificate}", above, now, leaf=False)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    kind = "RSA" if isinstance(private, rsa.RSAPrivateKey) else "ECDSA"
    return ValidatedPair(_pem(chain), pem, kind, leaf.not_valid_after_utc, _subject(leaf), _hosts(leaf), warnings)


def authorities(paths: Sequence[str], now: datetime) -> Authorities:
    """Read the files of `http.tls.clientcas`.  Raises `StartupError`.

    An expired CA is omitted: none of its clients could be verified.
    """
    usable: list[x509.Certificate] = []
    warnings: list[str] = []
    for index, path in enumerate(paths):
        for one in _certificates(f"http.tls.clientcas[{index}]", path):
            if one.not_valid_after_utc <= now:
                warnings.append(f"the authority {_name(one)} in {path} has expired; its clients are refused")
                continue
            if not _verifiable(_public(one)):
                raise StartupError(
                    f"http.tls.clientcas[{index}]: signatures of {_name(one)} in {path} cannot be checked; "
                    "authorities may have RSA keys of at least 2048 bits, EC keys of at least 224, Ed25519, Ed448"
                )
            if not _may_sign(one) and one.issuer != one.subject:
                warnings.append(f"{_name(one)} in {path} is not the certificate of an authority")
            usable.append(one)
    if not usable:
        raise StartupError(f"every authority in {', '.join(paths)} has expired", "http.tls.clientcas")
    return Authorities(_pem(usable), warnings)


# Reading


def _blocks(setting: str, path: str) -> list[tuple[bytes, bytes]]:
    """Return label and text of each PEM block of a file.  Raises `StartupError`."""
    try:
        data = read_regular(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise StartupError(f"cannot read {path}: {reason}", setting) from error
    found = [(match[1], match[0]) for match in _BLOCK.finditer(data)]
    if not found:
        hint = "; it looks like DER or PKCS#12, expected PEM" if data.startswith(_DER) else ""
        raise StartupError(f"{path} holds no PEM block (-----BEGIN ...){hint}", setting)
    return found


def _certificates(setting: str, path: str) -> list[x509.Certificate]:
    """Return the certificates of a file, without duplicates, in order; at least one.  Raises `StartupError`."""
    blocks = _blocks(setting, path)
    found: list[x509.Certificate] = []
    for number, text in enumerate((text for label, text in blocks if label in _CERTIFICATES), 1):
        try:
            one = x509.load_pem_x509_certificate(text)
            # Parsed on access only.
            _ = one.extensions, one.subject, one.issuer, one.version
        except (*_UNREADABLE, x509.DuplicateExtension, x509.InvalidVersion) as error:
            raise StartupError(f"certificate {number} in {path} cannot be used: {error}", setting) from error
        if one not in found:
            found.append(one)
    if found:
        return found
    if any(label.endswith(b"PRIVATE KEY") for label, _ in blocks):
        raise StartupError(
            f"{setting}: {path} holds a private key and no PEM block CERTIFICATE; are the two mixed up?"
        )
    labels = ", ".join(sorted({label.decode() for label, _ in blocks}))
    raise StartupError(f"{path} holds no PEM block CERTIFICATE, only {labels}", setting)


def _key(setting: str, path: str) -> Key:
    """Return the first private key of a file.  Raises `StartupError` for an unsupported kind."""
    blocks = _blocks(setting, path)
    text = next((text for label, text in blocks if label.endswith(b"PRIVATE KEY")), None)
    if text is None:
        labels = ", ".join(sorted({label.decode() for label, _ in blocks}))
        raise StartupError(f"{path} holds no PEM block PRIVATE KEY, only {labels}", setting)
    try:
        found = load_pem_private_key(text, None)
    except TypeError as error:
        raise StartupError(f"{path} is encrypted; a server needs the key without a password", setting) from error
    except _UNREADABLE as error:
        # The library's message is about ASN.1 structures, of no use to an operator.
        raise StartupError(
            f"{setting}: the private key in {path} is broken or of a kind that is not known"
        ) from error
    if isinstance(found, rsa.RSAPrivateKey):
        if found.key_size < _WEAK_BITS:
            raise _unserved(setting, path, f"RSA with {found.key_size} bits")
        return found
    if isinstance(found, ec.EllipticCurvePrivateKey):
        if found.curve.name not in _CURVES:
            raise _unserved(setting, path, f"on the curve {found.curve.name}")
        return found
    if isinstance(found, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return found
    raise _unserved(setting, path, f"of the kind {type(found).__name__.removesuffix('PrivateKey').lstrip('_')}")


def _unserved(setting: str, path: str, what: str) -> StartupError:
    return StartupError(
        f"{setting}: the key in {path} is {what}; "
        "keys that can be served are RSA with at least 2048 bits, EC on P-256, P-384 or P-521, Ed25519 and Ed448"
    )


# Chain order


def _chain(
    section: str, path: str, found: list[x509.Certificate], key_path: str, key: Key
) -> tuple[list[x509.Certificate], list[str]]:
    """Return the leaf and its issuers in the order of RFC 8446, and warnings.  Raises `StartupError`.

    A file in a valid order is kept as it is: with cross-signed CAs there is more than one.
    """
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    matching = [one for one in found if _spki(one) == spki]
    if not matching:
        of = _name(found[0]) if len(found) == 1 else f"any of the {len(found)} certificates"
        raise StartupError(f"the key {key_path} does not belong to {of} in {path}", section)
    leaf = matching[0]
    chain = [leaf]
    rest = [one for one in found if one is not leaf]
    while True:
        above = next((one for one in rest if any(_signs(one, below) for below in chain)), None)
        if above is None:
            break
        chain.append(above)
        rest.remove(above)
    warnings = []
    if found[0] is not leaf:
        warnings.append(
            f"{path} does not begin with the server's own certificate, {_name(leaf)}, which is number "
            f"{found.index(leaf) + 1} in it; it is served first all the same, but other servers refuse this file: "
            "put it first, then the one that signed it, and so on"
        )
    elif _is_out_of_order(found, rest):
        warnings.append(
            f"the certificates in {path} are not in order; they are served as "
            f"{', '.join(_name(one) for one in chain)}, but some clients of other servers need each to be "
            "followed by the one that signed it"
        )
    else:
        chain = [one for one in found if one not in rest]
    warnings += [f"{_name(one)} in {path} signs none of the others and is not served" for one in rest]
    return chain, warnings


def _is_out_of_order(found: list[x509.Certificate], unrelated: list[x509.Certificate]) -> bool:
    """Return whether a certificate precedes all of those that it signs."""
    related = [one for one in found if one not in unrelated]
    return any(
        not any(_signs(one, below) for below in related[:index]) for index, one in enumerate(related) if index
    )


def _signs(above: x509.Certificate, below: x509.Certificate) -> bool:
    if below is above or below.issuer != above.subject:
        return False
    try:
        below.verify_directly_issued_by(above)
    except InvalidSignature:
        return False
    except (TypeError, *_UNREADABLE):
        # The signature is of an unsupported kind; issuer and subject match.
        return True
    return True


# Warnings


def _warnings(what: str, one: x509.Certificate, now: datetime, *, leaf: bool = True) -> Iterator[str]:
    """Yield warnings about properties for which clients reject a certificate, now or soon."""
    begin, end = one.not_valid_before_utc, one.not_valid_after_utc
    if now < begin:
        yield f"{what} is not valid before {_time(begin)}; clients will refuse it"
    elif now >= end:
        yield f"{what} has expired on {_time(end)}; clients will refuse it"
    elif end - now < min(_SOON, (end - begin) / 3):
        yield f"{what} expires on {_time(end)}"
    self_signed = one.issuer == one.subject
    hashed = _hash(one)
    if hashed in _BROKEN_HASHES and not self_signed:
        yield f"{what} is signed with {hashed.upper()}; clients will refuse it"
    public = _public(one)
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < _WEAK_BITS:
        yield f"{what} has an RSA key of {public.key_size} bits; clients will refuse it"
    if isinstance(public, rsa.RSAPublicKey) and public.key_size > _GO_BITS:
        yield f"{what} has an RSA key of {public.key_size} bits; Docker and other clients in Go will refuse it"
    if isinstance(public, ed448.Ed448PublicKey):
        yield f"{what} has a key of the kind Ed448; Docker and other clients in Go will refuse it"
    for extension in one.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            yield (
                f"{what} marks the extension {extension.oid.dotted_string} as critical; Docker and other "
                "clients in Go will refuse it"
            )
    if leaf:
        yield from _server_warnings(what, one)


def _server_warnings(what: str, leaf: x509.Certificate) -> Iterator[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        named = bool(names.get_values_for_type(x509.DNSName) or names.get_values_for_type(x509.IPAddress))
    except x509.ExtensionNotFound:
        named = False
    if not named:
        yield f"{what} names no host in subjectAltName; Docker and every other client in Go will refuse it"
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        yield f"{what} is not meant for servers (extendedKeyUsage without serverAuth); clients will refuse it"


def _verifiable(public: object) -> bool:
    """Return whether OpenSSL, at security level 2, accepts signatures of this key."""
    if isinstance(public, rsa.RSAPublicKey | dsa.DSAPublicKey):
        return public.key_size >= _WEAK_BITS
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.key_size >= _AUTHORITY_CURVE_BITS
    return isinstance(public, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)


def _may_sign(one: x509.Certificate) -> bool:
    try:
        return bool(one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        # X.509 version 1 has no extensions.
        return one.version is x509.Version.v1


def _hash(one: x509.Certificate) -> str:
    """Return the name of the signature's hash; empty if there is none or it is unknown."""
    try:
        found = one.signature_hash_algorithm
    except _UNREADABLE:
        return ""
    return found.name if found is not None else ""


def _public(one: x509.Certificate) -> object:
    """Return the public key; None if its kind is unsupported."""
    try:
        return one.public_key()
    except _UNREADABLE:
        return None


def _spki(one: x509.Certificate) -> bytes | None:
    try:
        return one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except _UNREADABLE:
        return None


def _name(one: x509.Certificate) -> str:
    return one.subject.rfc4514_string() or f"the certificate with serial number {one.serial_number:x}"


def _subject(leaf: x509.Certificate) -> str:
    """Return the subject of a certificate, or its host names: public CAs leave the subject empty."""
    subject = leaf.subject.rfc4514_string()
    if subject:
        return subject
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return _name(leaf)
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return ", ".join(hosts) or _name(leaf)


def _hosts(leaf: x509.Certificate) -> tuple[str, ...]:
    """Return the host names of a certificate in lower case, wildcards included."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(dict.fromkeys(name.lower() for name in names.get_values_for_type(x509.DNSName)))


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _pem(chain: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)
