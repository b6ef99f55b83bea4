"""Keys by the names that token servers of both generations give them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import ECKey, RSAKey
from tests.auth.signing import Signer, b64, certificate, libtrust_id, pem

from moorage.auth.token.trusted_keys import (
    ALGORITHMS,
    KeyFileInvalid,
    ids_of,
    merge,
    read_bundle,
    read_jwks,
    trust,
)

if TYPE_CHECKING:
    from moorage.auth.token.trusted_keys import TrustedKeys

SECRET = b64(b"s" * 64)


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def algorithms(keys: TrustedKeys, key_id: str) -> frozenset[str]:
    (key,) = keys.by_id[key_id]
    return key.algorithms


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("RSA", {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        ("P-256", {"ES256"}),
        ("P-384", {"ES384"}),
        ("P-521", {"ES512"}),
        ("Ed25519", {"EdDSA"}),
    ],
)
def test_a_certificate_is_known_by_the_ids_of_both_generations(kind: str, expected: set[str]) -> None:
    """Servers made for version 2 send libtrust ids, those for version 3 thumbprints; 3 broke the former."""
    signer = Signer.of(kind)
    keys = read_bundle(pem(signer.certificate), ALGORITHMS)
    assert set(keys.by_id) >= {signer.thumbprint, signer.libtrust}
    assert keys.roots == (signer.certificate,)
    assert keys.notes == ()
    for key_id in keys.by_id:
        assert algorithms(keys, key_id) == expected


def test_a_thumbprint_is_that_of_the_rfc() -> None:
    """RFC 7638 section 3.1 has an example; another hash would lock every token server out."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknj"
        "hMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6"
        "qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8aw"
        "apJzKnqDKgw"
    )
    key = RSAKey.import_key({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    assert ids_of(key)[0] == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_an_elliptic_key_with_a_leading_zero_is_known_by_the_references_odd_id_too() -> None:
    """Version 3 drops the zero: one key in 128 has another id there than in every correct library."""
    scalar = next(
        number
        for number in range(1, 5000)
        if ec.derive_private_key(number, ec.SECP256R1()).public_key().public_numbers().x < 1 << 248
    )
    private = ec.derive_private_key(scalar, ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    x, y = (b64(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.x, numbers.y))
    text = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'  # as Go's fmt.Sprintf puts it together
    odd = b64(hashlib.sha256(text.encode()).digest())
    right = ECKey.import_key(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())).thumbprint()
    keys = read_bundle(pem(certificate("zero", private)), ALGORITHMS)
    assert odd != right
    assert keys.by_id.keys() == {right, odd, libtrust_id(private)}


def test_other_blocks_and_text_around_certificates_are_skipped() -> None:
    """Bundles are often concatenated by `cat`, private key included."""
    signers = [Signer.of("P-256", number) for number in range(2)]
    private = signers[0].private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    data = b"a comment\n" + private + pem(signers[0].certificate) + b"subject=...\n" + pem(signers[1].certificate)
    assert len(read_bundle(data, ALGORITHMS).roots) == 2


def test_a_bundle_with_a_broken_certificate_is_refused() -> None:
    """Half a bundle would be a half-working registry."""
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(KeyFileInvalid, match="cannot be read"):
        read_bundle(pem(Signer.of("P-256").certificate) + broken, ALGORITHMS)


@pytest.mark.parametrize(
    "data", [b"", b"no certificate", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_without_certificates_gives_no_keys_and_says_so(data: bytes) -> None:
    """It may stand beside a JWK Set; alone it stops the start."""
    keys = read_bundle(data, ALGORITHMS)
    assert (keys.by_id, keys.roots) == ({}, ())
    assert keys.notes == ("it holds no certificate",)


def test_certificates_of_other_keys_end_chains_but_sign_no_tokens() -> None:
    """A root of an unusual curve may still vouch for a signer of a usual one."""
    odd = certificate("odd", ec.generate_private_key(ec.SECP256K1()))
    keys = read_bundle(pem(odd), ALGORITHMS)
    assert keys.roots == (odd,)
    assert keys.by_id == {}
    assert "secp256k1 is not among those of tokens" in keys.notes[0]


def test_weak_rsa_keys_are_reported_and_very_weak_ones_left_out() -> None:
    """The reference takes 1024 bits, so such a server must keep working; its owner gets a warning."""
    weak = certificate("weak", rsa.generate_private_key(65537, 1024))
    keys = read_bundle(pem(weak), ALGORITHMS)
    assert len(keys.by_id) == 2
    assert "only 1024 bits" in keys.notes[0]
    assert "no protection" in str(trust(rsa.RSAPublicNumbers(65537, (1 << 511) + 9).public_key(), ALGORITHMS))
    assert trust(dsa.generate_private_key(1024).public_key(), ALGORITHMS) == (
        "expected an RSA, an elliptic or an Ed25519 key"
    )
    assert isinstance(trust(ed448.Ed448PrivateKey.generate().public_key(), ALGORITHMS), str)


def test_keys_of_a_set_are_known_by_their_kid_to_the_letter() -> None:
    """The token server chose the name; nothing else may stand for it."""
    signer = Signer.of("P-256")
    keys = read_jwks(jwks({**signer.jwk, "kid": "Key/1"}), ALGORITHMS)
    assert keys.by_id.keys() == {"Key/1"}
    assert keys.roots == ()
    unnamed = read_jwks(jwks(signer.jwk), ALGORITHMS)
    assert unnamed.by_id.keys() >= {signer.thumbprint, signer.libtrust}


def test_two_keys_may_share_a_kid() -> None:
    """RFC 7517 section 4.5: equivalent keys of different types, while one replaces the other."""
    rsa_key, ec_key = ({**Signer.of(kind).jwk, "kid": "k"} for kind in ("RSA", "P-256"))
    found = read_jwks(jwks(rsa_key, ec_key), ALGORITHMS).by_id["k"]
    assert [min(key.algorithms) for key in found] == ["PS256", "ES256"]


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("text", "expected an object"),
        ({"kty": "EC", "kid": 5}, "kid is not text"),
        ({**Signer.of("P-256").jwk, "use": "enc"}, "use is not sig"),
        ({**Signer.of("P-256").jwk, "key_ops": ["encrypt"]}, "neither sign nor verify"),
        ({**Signer.of("P-256").jwk, "key_ops": 5}, "neither sign nor verify"),
        ({**Signer.of("P-256").jwk, "alg": "ES384"}, "none of which is allowed"),
        ({**Signer.of("P-256").jwk, "crv": "P-999"}, "cannot be read"),
        ({**Signer.of("P-256").jwk, "x": "AAAA"}, "cannot be read"),
        ({**Signer.of("P-256").jwk, "x": 5}, "cannot be read"),
        ({"kty": "RSA", "n": "!"}, "cannot be read"),
        ({"kty": "OKP", "crv": "X25519", "x": b64(b"x" * 32)}, "expected an RSA, an elliptic or an Ed25519"),
        ({"kty": "new"}, "kty is not known"),
        ({"kty": "oct", "k": SECRET}, "a secret needs a kid"),
        ({"kty": "oct", "k": b64(b"s" * 31), "kid": "s"}, "a secret needs 32 bytes"),
        ({"kty": "oct", "k": 5, "kid": "s"}, "a secret needs 32 bytes"),
        ({"kty": "oct", "k": "!" * 43, "kid": "s"}, "cannot be read"),
    ],
)
def test_keys_of_a_set_that_cannot_serve_are_left_out_with_a_reason(entry: Any, why: str) -> None:
    """One odd key must not stop the others: RFC 7517 section 5."""
    good = {**Signer.of("P-384").jwk, "kid": "good"}
    keys = read_jwks(jwks(entry, good), ALGORITHMS)
    assert keys.by_id.keys() == {"good"}
    assert len(keys.notes) == 1
    assert why in keys.notes[0]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b'{"keys": [' + b"[" * 100_000, b'{"keys":[1' + b"1" * 5000],
)
def test_what_is_no_jwk_set_is_refused(data: bytes) -> None:
    with pytest.raises(KeyFileInvalid, match=r"no JSON|no JWK Set"):
        read_jwks(data, ALGORITHMS)


def test_a_private_key_in_a_set_is_used_and_reported() -> None:
    """The operator would not notice that the registry could sign tokens."""
    private = dict(Signer.of("P-256").key.as_dict(private=True))
    keys = read_jwks(jwks({**private, "kid": "k", "key_ops": ["sign"]}), ALGORITHMS)
    assert algorithms(keys, "k") == {"ES256"}
    assert not keys.by_id["k"][0].key.is_private
    assert "private part" in keys.notes[0]


@pytest.mark.parametrize(
    ("size", "expected"), [(32, {"HS256"}), (48, {"HS256", "HS384"}), (64, {"HS256", "HS384", "HS512"})]
)
def test_a_secret_signs_only_by_hashes_that_are_not_longer(size: int, expected: set[str]) -> None:
    """RFC 7518 section 3.2."""
    keys = read_jwks(jwks({"kty": "oct", "k": b64(b"s" * size), "kid": "s"}), ALGORITHMS)
    assert algorithms(keys, "s") == expected
    assert ids_of(keys.by_id["s"][0].key) == ()


def test_only_the_configured_algorithms_are_allowed() -> None:
    """`signingalgorithms` restricts each key, and a key without an allowed algorithm is reported."""
    allowed = frozenset({"PS256", "ES256"})
    keys = read_bundle(pem(*(Signer.of(kind).certificate for kind in ("RSA", "P-256", "P-384"))), allowed)
    assert algorithms(keys, Signer.of("RSA").thumbprint) == {"PS256"}
    assert Signer.of("P-384").thumbprint not in keys.by_id
    assert "signs no token by itself" in keys.notes[0]


def test_all_files_together_know_all_keys() -> None:
    bundle = read_bundle(pem(Signer.of("P-256").certificate), ALGORITHMS)
    keyset = read_jwks(jwks({**Signer.of("Ed25519").jwk, "kid": Signer.of("P-256").thumbprint}), ALGORITHMS)
    both = merge([bundle, keyset])
    assert len(both.by_id[Signer.of("P-256").thumbprint]) == 2
    assert both.roots == bundle.roots


def test_the_libtrust_id_is_dockers() -> None:
    """Twelve groups of four, from the key alone: renewing a certificate does not change it."""
    signer = Signer.of("P-256")
    renewed = certificate("renewed", signer.private)
    assert isinstance(renewed, x509.Certificate)
    assert signer.libtrust in read_bundle(pem(renewed), ALGORITHMS).by_id
    decoded = base64.b32decode(signer.libtrust.replace(":", ""))
    assert len(decoded) == 30
