"""Keys and certificates, as Go's `autocert` keeps them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.acme.certificates import Authority, autocert_holds

from moorage.acme import pem


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_what_is_written_is_what_the_reference_takes_over(authority: Authority) -> None:
    """After a return to CNCF Distribution there is a certificate from the first second on."""
    key = pem.new_key()
    chain = authority.sign(pem.request(key, ("r.test", "s.test")))
    written = pem.write(key, f"{chain}\n\n")
    autocert_holds(written, "r.test")
    autocert_holds(written, "s.test")


def test_what_is_written_is_read(authority: Authority) -> None:
    key = pem.new_key()
    found = pem.read(pem.write(key, authority.sign(pem.request(key, ("r.test", "S.test")))))
    assert found is not None
    assert found.hosts == {"r.test", "s.test"}
    assert found.issuer == "CN=tests"
    assert found.begin < datetime.now(UTC) < found.end


def test_what_the_reference_has_written_is_read(authority: Authority) -> None:
    """A directory filled by CNCF Distribution serves on from the first second."""
    found = pem.read(authority.issue("r.test"))
    assert found is not None
    assert found.hosts == {"r.test"}


def test_what_cannot_be_served_is_no_certificate(authority: Authority) -> None:
    """It is asked for again; a file that is broken must not end the server."""
    good = authority.issue("r.test")
    key, chain = good.split(b"-----BEGIN CERTIFICATE-----", 1)
    other = authority.issue("r.test").split(b"-----BEGIN CERTIFICATE-----", 1)[0]
    young = ed25519.Ed25519PrivateKey.generate()
    odd = young.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for broken in (
        b"", b"rubbish", key, chain, good[:-200], other + b"-----BEGIN CERTIFICATE-----" + chain,
        odd + b"-----BEGIN CERTIFICATE-----" + chain, authority.issue(),
    ):  # fmt: skip
        assert pem.read(broken) is None


def test_a_certificate_for_another_key_is_refused(authority: Authority) -> None:
    """An authority that mixes up two orders would otherwise end the server's TLS."""
    chain = authority.sign(pem.request(pem.new_key(), ("r.test",)))
    with pytest.raises(ValueError, match="another key"):
        pem.write(pem.new_key(), chain)


def test_account_keys_of_both_kinds_are_taken() -> None:
    """`autocert` has written RSA keys in its first years."""
    curve = ec.generate_private_key(ec.SECP384R1())
    large = rsa.generate_private_key(65537, 2048)
    for key in (curve, large):
        data = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        found = pem.account_key(data)
        assert found is not None
        assert found.private_numbers() == key.private_numbers()
    assert pem.account_key(b"") is None
    other = ed25519.Ed25519PrivateKey.generate()
    assert pem.account_key(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())) is None


def test_a_request_names_every_host() -> None:
    long = "a" * 60 + ".example.com"
    for hosts in (("r.test", "s.test"), (long, "r.test")):
        requested = x509.load_pem_x509_csr(pem.request(pem.new_key(), hosts))
        names = requested.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert tuple(names.get_values_for_type(x509.DNSName)) == hosts
        # X.520 gives a common name 64 letters.
        assert len(list(requested.subject)) == (0 if hosts[0] == long else 1)


def test_the_answer_to_tls_alpn_is_that_of_the_rfc() -> None:
    """RFC 8737 section 3: the only name, and the digest as a critical extension."""
    made = pem.challenge_certificate("r.test", "token.thumb", datetime.now(UTC))
    leaf = x509.load_pem_x509_certificate(made)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["r.test"]
    shown = leaf.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert shown.critical
    assert isinstance(shown.value, x509.UnrecognizedExtension)
    assert shown.value.value == b"\x04\x20" + hashlib.sha256(b"token.thumb").digest()
    assert leaf.not_valid_after_utc - datetime.now(UTC) < timedelta(days=8)
    assert pem.read(made) is not None
