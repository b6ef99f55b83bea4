"""Chains of certificates in tokens: what the operator's bundle vouches for, and what it does not."""

from __future__ import annotations

import base64
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auth.signing import Signer, certificate

from moorage.auth.token.chains import ChainInvalid, VerifiedChain, verify_chain

if TYPE_CHECKING:
    from tests.auth.signing import PrivateKey

NOW = time.time()
ROOT, MIDDLE, LEAF, OTHER = (Signer.of("P-256", number).private for number in range(4))
AUTHORITY = certificate("root", ROOT, authority=True)
MIDDLEMAN = certificate("middle", MIDDLE, "root", ROOT, authority=True)
SIGNER = certificate("signer", LEAF, "middle", MIDDLE)
SIGNER_BELOW_ROOT = certificate("signer", LEAF, "root", ROOT)


def sent(*certificates: x509.Certificate) -> list[object]:
    return [base64.b64encode(found.public_bytes(Encoding.DER)).decode() for found in certificates]


def vouched(chain: list[object], *roots: x509.Certificate, now: float = NOW) -> VerifiedChain:
    return verify_chain(chain, roots, now)


def why(chain: list[object], *roots: x509.Certificate, now: float = NOW) -> str:
    with pytest.raises(ChainInvalid) as caught:
        verify_chain(chain, roots, now)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["RSA", "P-256", "P-384", "P-521", "Ed25519"])
@pytest.mark.parametrize("authority", [None, False, True])
def test_a_certificate_of_the_bundle_vouches_for_itself(kind: str, authority: bool | None) -> None:
    """The usual deployment: the server's self-signed certificate is the bundle, no CA, no names."""
    own = certificate("own", Signer.of(kind).private, authority=authority)
    assert vouched(sent(own), AUTHORITY, own).public == own.public_key()
    assert vouched(sent(own, AUTHORITY), own).public == own.public_key()


def test_a_certificate_of_the_bundle_need_not_be_self_signed() -> None:
    """Only the signer's own certificate may be trusted, and not everything its authority signs."""
    assert vouched(sent(SIGNER, MIDDLEMAN), SIGNER).public == SIGNER.public_key()
    other = certificate("other", OTHER, "middle", MIDDLE)
    assert "vouches for" in why(sent(other, MIDDLEMAN), SIGNER)


def test_a_chain_leads_to_the_bundle_through_what_was_sent() -> None:
    assert vouched(sent(SIGNER, MIDDLEMAN), AUTHORITY).public == SIGNER.public_key()
    assert vouched(sent(SIGNER, AUTHORITY, MIDDLEMAN), AUTHORITY).public == SIGNER.public_key(), (
        "in any order, root included"
    )
    assert vouched(sent(SIGNER), MIDDLEMAN).public == SIGNER.public_key(), (
        "the bundle may hold an intermediate only"
    )
    assert vouched(sent(SIGNER_BELOW_ROOT), AUTHORITY).public == SIGNER_BELOW_ROOT.public_key()
    assert "vouches for certificate 'CN=signer'" in why(sent(SIGNER), AUTHORITY)


@pytest.mark.parametrize(("between", "good"), [(1, True), (3, True), (4, False)])
def test_a_chain_may_have_three_certificates_between(between: int, good: bool) -> None:
    """More than any deployment has, and few enough to try all orders soon."""
    keys = [Signer.of("P-256", number).private for number in range(between + 2)]
    chain = [certificate("0", keys[0], authority=True)]
    for number in range(1, between + 2):
        below = None if number > between else True
        chain.append(certificate(f"{number}", keys[number], f"{number - 1}", keys[number - 1], authority=below))
    root, *others = chain
    found = sent(*reversed(others))
    if good:
        assert vouched(found, root).name == f"CN={between + 1}"
    else:
        assert "vouches for" in why(found, root)


def test_what_is_no_certificate_is_refused_with_the_reason() -> None:
    """The operator of the token server sees in the log what its library makes."""
    assert "ValueError: " in why([base64.b64encode(b"no certificate").decode()], AUTHORITY)
    assert "Error: " in why(["not Base64"], AUTHORITY)


def test_a_chain_from_elsewhere_is_refused() -> None:
    """The names are right, the key is not."""
    forged = certificate("root", OTHER, authority=True)
    assert "vouches for" in why(sent(certificate("s", LEAF, "root", OTHER), forged), AUTHORITY)
    assert "vouches for" in why(sent(certificate("s", LEAF)), AUTHORITY)
    assert "no rootcertbundle" in why(sent(SIGNER))


def test_only_authorities_vouch_for_others() -> None:
    """A certificate for one signer must not make another one."""
    plain = certificate("middle", MIDDLE, "root", ROOT)
    not_one = certificate("middle", MIDDLE, "root", ROOT, authority=False)
    for middle in (plain, not_one):
        assert "vouches for" in why(sent(SIGNER, middle), AUTHORITY)
        assert "vouches for" in why(sent(SIGNER), middle)
    assert "basicConstraints" in why(sent(SIGNER), not_one)
    assert "vouches for" in why(sent(certificate("s", LEAF, "root", ROOT)), certificate("root", ROOT))


@pytest.mark.parametrize("signs", [True, False])
def test_an_authority_may_be_forbidden_to_sign(signs: bool) -> None:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    root = certificate("root", ROOT, authority=True, usage=usage)
    chain = sent(SIGNER_BELOW_ROOT)
    if signs:
        assert vouched(chain, root).public == SIGNER_BELOW_ROOT.public_key()
    else:
        assert "keyUsage" in why(chain, root)


def test_an_authority_says_how_long_chains_below_it_may_be() -> None:
    root = certificate("root", ROOT, authority=True, path_length=0)
    assert vouched(sent(SIGNER_BELOW_ROOT), root).public == SIGNER_BELOW_ROOT.public_key()
    assert "vouches for" in why(sent(SIGNER, MIDDLEMAN), root)


def test_a_certificate_is_good_from_its_first_second_to_its_last() -> None:
    """Both ends belong to the validity period (RFC 5280 section 4.1.2.5)."""
    begin, end = int(NOW) - 60, int(NOW) + 60
    own = certificate("own", LEAF, begin=begin, end=end)
    for now in (begin, end):
        assert vouched(sent(own), own, now=now).expires_at == end
    for outside in (begin - 1, begin - 0.001, end + 0.001, end + 1):
        assert "is not in date" in why(sent(own), own, now=outside)


def test_every_certificate_has_to_be_in_date() -> None:
    for begin, end in ((NOW - 50, NOW - 5), (NOW + 5, NOW + 50)):
        own = certificate("own", LEAF, begin=begin, end=end)
        assert "CN=own' is not in date" in why(sent(own), own)
        middle = certificate("middle", MIDDLE, "root", ROOT, authority=True, begin=begin, end=end)
        assert "vouches for" in why(sent(SIGNER, middle), AUTHORITY)
        root = certificate("root", ROOT, authority=True, begin=begin, end=end)
        assert "vouches for" in why(sent(SIGNER, MIDDLEMAN), root)
        leaf = certificate("signer", LEAF, "middle", MIDDLE, begin=begin, end=end)
        assert "vouches for" in why(sent(leaf, MIDDLEMAN), AUTHORITY)


def test_a_chain_is_good_until_its_first_certificate_ends() -> None:
    middle = certificate("middle", MIDDLE, "root", ROOT, authority=True, end=int(NOW) + 70)
    assert vouched(sent(SIGNER, middle), AUTHORITY).expires_at == int(NOW) + 70


def test_a_renewed_certificate_of_the_same_key_is_vouched_for_if_the_old_one_is_an_authority() -> None:
    """As in Go: self-signed with CA:TRUE, which is what `openssl req -x509` makes by itself."""
    old, new = (certificate("server", LEAF, authority=True) for _ in range(2))
    assert vouched(sent(new), old).public == new.public_key()


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)])
def test_a_tangle_of_certificates_is_given_up_soon(key: PrivateKey) -> None:
    """Certificates that may all have signed each other would keep a worker busy for minutes."""
    maze = [certificate("x", key, authority=True) for _ in range(4)]
    leaf = certificate("leaf", LEAF, "x", key)
    assert "vouches for" in why(sent(leaf, *maze), AUTHORITY)
    assert "more than 5" in why(sent(leaf, *maze, AUTHORITY), AUTHORITY)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_certificates_with_any_byte_changed_are_refused_or_the_same(data: st.DataObject) -> None:
    """The library raises errors of many types for a malformed certificate: each would be a 500."""
    chain = [SIGNER.public_bytes(Encoding.DER), MIDDLEMAN.public_bytes(Encoding.DER)]
    which = data.draw(st.integers(0, 1))
    changed = bytearray(chain[which])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    chain[which] = bytes(changed)
    with contextlib.suppress(ChainInvalid):
        assert vouched([base64.b64encode(part).decode() for part in chain], AUTHORITY).name


def test_certificates_that_cannot_be_read_are_reported() -> None:
    good = sent(SIGNER)
    for broken in ("", "AAAA", "é", "A" * 4001, str(good[0])[:-8], f"{good[0]}AAAA", "\n"):
        assert "cannot be read" in why([broken], AUTHORITY)
        assert "cannot be read" in why([*good, broken], AUTHORITY)
    assert "is not text" in why([None], AUTHORITY)
