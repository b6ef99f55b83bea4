"""Certificate chains in tokens (`x5c`): verifies that a chain leads to a certificate of the bundle.

The first certificate signs the token.  It must be in the bundle itself and valid, or chain to one in the bundle
through the others that were sent.  The first case is by far the most frequent, and not one for a PKIX verifier:
token servers put their self-signed certificate, which is not a CA and has no host name, into the bundle.  The
second is verified by `cryptography.x509.verification`, for any purpose.

Source: docs/reference/auth.md, section 4.4; RFC 7515 section 4.1.6 (x5c), RFC 5280 section 6.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509.verification import Policy

__all__ = ["ChainInvalid", "VerifiedChain", "is_ca", "verify_chain"]

_CERTIFICATES_LIMIT: Final = 5
_INTERMEDIATES_LIMIT: Final = 3
"""Limits the cost of a hostile chain: certificates that may have signed each other are tried in every order."""


class ChainInvalid(Exception):
    """The chain does not lead to a certificate of the bundle; the message is for the log."""


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """Public key and subject of the signing certificate, and expiry of the chain in seconds since the epoch."""

    public: object
    name: str
    expires_at: float


def verify_chain(sent: Sequence[object], roots: Sequence[x509.Certificate], now: float) -> VerifiedChain:
    """Verify an `x5c` list, the signer first.  Raises ChainInvalid."""
    if not roots:
        raise ChainInvalid("the token brings a certificate, and no rootcertbundle is configured")
    if len(sent) > _CERTIFICATES_LIMIT:
        raise ChainInvalid(f"more than {_CERTIFICATES_LIMIT} certificates in the token")
    try:
        leaf, *others = (_read(text) for text in sent)
        expires_at = _expiry_of_chain(leaf, others, roots, now)
        return VerifiedChain(leaf.public_key(), leaf.subject.rfc4514_string(), expires_at)
    except ChainInvalid:
        raise
    except Exception as error:
        # For malformed certificates the library raises ValueError, TypeError, InvalidVersion,
        # UnsupportedAlgorithm...
        why = f"{type(error).__name__}: {error}"
        raise ChainInvalid(f"a certificate in the token cannot be read: {why}") from error


def _expiry_of_chain(
    leaf: x509.Certificate, others: list[x509.Certificate], roots: Sequence[x509.Certificate], now: float
) -> float:
    moment = datetime.fromtimestamp(now, UTC)
    if leaf in roots:
        if not leaf.not_valid_before_utc <= moment <= leaf.not_valid_after_utc:
            raise ChainInvalid(f"{_name(leaf)} is not in date")
        return leaf.not_valid_after_utc.timestamp()
    verifier = (
        PolicyBuilder()
        .store(Store(list(roots)))
        .time(moment)
        .max_chain_depth(_INTERMEDIATES_LIMIT)
        .extension_policies(ca_policy=_ISSUERS, ee_policy=ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        chain = verifier.verify(leaf, others).chain
    except VerificationError as error:
        raise ChainInvalid(f"no certificate of rootcertbundle vouches for {_name(leaf)}: {error}") from error
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


def is_ca(certificate: x509.Certificate) -> bool:
    """Return whether a certificate is that of a CA."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False


def _read(text: object) -> x509.Certificate:
    if not isinstance(text, str):
        raise ChainInvalid("a certificate in the token is not text")
    return x509.load_der_x509_certificate(base64.b64decode(text, validate=True))


def _name(certificate: x509.Certificate) -> str:
    return f"certificate {certificate.subject.rfc4514_string()!r}"


def _authority_only(_: Policy, __: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("the issuer is no authority (basicConstraints)")


def _may_sign(_: Policy, __: x509.Certificate, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("the issuer may not sign certificates (keyUsage)")


_ISSUERS: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _authority_only)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
)
