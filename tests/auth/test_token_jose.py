"""Which key has to have signed a token, and that only that key's signature counts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import OctKey
from tests.auth.signing import Signer, b64, certificate, claims, compact, pem

from moorage.auth.token.jose import TokenRefused, VerifiedPayload, read_json, verify_signature
from moorage.auth.token.trusted_keys import ALGORITHMS, TrustedKeys, merge, read_bundle, read_jwks

if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS: Final = ("RSA", "P-256", "P-384", "P-521", "Ed25519")
FORMS: Final = (
    "thumbprint",
    "libtrust",
    "x5c",
    "jwk",
    "jwk with thumbprint",
    "jwk with libtrust",
    "jwk with x5c",
)
RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
SECRET: Final = b"a secret that both sides know; it is long enough for each of the hashes"


def bundle(kinds: Iterable[str] = KINDS) -> TrustedKeys:
    return read_bundle(pem(*(Signer.of(kind).certificate for kind in kinds)), ALGORITHMS)


def keyset(*keys: dict[str, Any]) -> TrustedKeys:
    return read_jwks(json.dumps({"keys": keys}).encode(), ALGORITHMS)


ALL: Final = merge([bundle(), keyset({"kty": "oct", "kid": "secret", "k": b64(SECRET)})])


def check(token: str, keys: TrustedKeys = ALL, allowed: frozenset[str] = ALGORITHMS) -> VerifiedPayload:
    return verify_signature(token, keys, allowed, time.time())


def refused(token: str, keys: TrustedKeys = ALL, allowed: frozenset[str] = ALGORITHMS) -> TokenRefused:
    with pytest.raises(TokenRefused) as caught:
        check(token, keys, allowed)
    return caught.value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_signs_under_every_name(kind: str, form: str) -> None:
    """Token servers of both generations of the reference, with any key they may have."""
    signer = Signer.of(kind)
    payload = claims()
    signed = check(signer.token(payload, **signer.header(form)))
    assert json.loads(signed.payload) == payload
    assert signed.key_id


@pytest.mark.parametrize("algorithm", RSA_ALGORITHMS)
def test_an_rsa_key_signs_by_each_of_its_algorithms(algorithm: str) -> None:
    signer = Signer.of("RSA")
    assert check(signer.token(claims(), alg=algorithm, kid=signer.thumbprint)).key_id == signer.thumbprint


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_shared_secret_signs_by_the_hashes_it_is_long_enough_for(algorithm: str) -> None:
    """The reference lists these and then never verifies one."""
    key = OctKey.import_key(SECRET)
    assert check(compact({"alg": algorithm, "kid": "secret"}, claims(), key, algorithm)).key_id == "secret"
    short = keyset({"kty": "oct", "kid": "secret", "k": b64(SECRET[:32])})
    token = compact({"alg": algorithm, "kid": "secret"}, claims(), OctKey.import_key(SECRET[:32]), algorithm)
    if algorithm == "HS256":
        assert check(token, short).key_id == "secret"
    else:
        assert "not allowed with this key" in str(refused(token, short))


def test_a_public_key_is_no_shared_secret() -> None:
    """The oldest attack: sign by HMAC with the bytes of the public key, which is public."""
    signer = Signer.of("RSA")
    for material in (pem(signer.certificate), signer.key.as_pem(private=False), signer.thumbprint.encode()):
        head, body = (b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": signer.thumbprint}, {}))
        mac = hmac.new(material, f"{head}.{body}".encode(), hashlib.sha256).digest()
        assert "HS256 is not allowed with this key" in str(refused(f"{head}.{body}.{b64(mac)}"))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, 5, [], "ES256K", "RSA-OAEP", "dir"])
def test_other_algorithms_do_not_exist(algorithm: Any) -> None:
    """A token without signature is a wish."""
    signer = Signer.of("P-256")
    head, body = (
        b64(json.dumps(part).encode()) for part in ({"alg": algorithm, **signer.header("x5c")}, claims())
    )
    for signature in ("", b64(b"x" * 64)):
        assert "is not known" in str(refused(f"{head}.{body}.{signature}"))


def test_an_algorithm_has_to_fit_the_keys_type_and_curve() -> None:
    for kind, algorithm in (("P-256", "ES384"), ("P-384", "ES256"), ("RSA", "EdDSA"), ("Ed25519", "RS256")):
        signer = Signer.of(kind)
        token = signer.token(claims(), **signer.header("x5c"))
        head, body, signature = token.split(".")
        header = {**read_json(base64.urlsafe_b64decode(head + "=="), "header"), "alg": algorithm}
        forged = f"{b64(json.dumps(header).encode())}.{body}.{signature}"
        assert f"{algorithm} is not allowed with this key" in str(refused(forged))


def test_an_algorithm_that_is_switched_off_is_refused() -> None:
    signer = Signer.of("RSA")
    allowed = frozenset({"PS256"})
    keys = read_bundle(pem(signer.certificate), allowed)
    token = signer.token(claims(), alg="PS256", kid=signer.thumbprint)
    assert check(token, keys, allowed).key_id == signer.thumbprint
    for form in FORMS:
        token = signer.token(claims(), **signer.header(form))
        assert "RS256 is not allowed" in str(refused(token, keys, allowed))


@pytest.mark.parametrize("form", ["thumbprint", "libtrust", "jwk", "jwk with thumbprint", "jwk with libtrust"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_unknown_by_every_name(kind: str, form: str) -> None:
    """A token could vouch for its own key."""
    signer = Signer.of(kind, 1)
    why = refused(signer.token(claims(), **signer.header(form)))
    assert str(why) == "signed by an unknown key"
    assert why.needs_keys
    assert why.key_id in {signer.thumbprint, signer.libtrust}


@pytest.mark.parametrize("kind", KINDS)
def test_the_configured_key_verifies_not_the_one_that_is_sent(kind: str) -> None:
    """The id of a trusted key beside another key that signed: that is a forgery."""
    trusted, other = Signer.of(kind), Signer.of(kind, 1)
    for header in (
        {"kid": trusted.thumbprint},
        {"jwk": {**other.jwk, "kid": trusted.thumbprint}},
        {"jwk": trusted.jwk},
    ):
        why = refused(other.token(claims(), **header))
        assert str(why) == "the signature is wrong"
        assert why.key_id == trusted.thumbprint


def test_a_chain_that_fails_is_final() -> None:
    """A good kid beside a bad chain does not help, as in the reference."""
    good, bad = Signer.of("P-256"), Signer.of("P-256", 1)
    for header in ({"x5c": bad.x5c, "kid": good.thumbprint}, {"jwk": {"x5c": bad.x5c, "kid": good.thumbprint}}):
        why = refused(good.token(claims(), **header))
        assert "vouches for" in str(why)
        assert why.needs_keys


def test_a_chain_is_nothing_where_only_a_key_set_is_configured() -> None:
    signer = Signer.of("P-256")
    keys = keyset({**signer.jwk, "kid": "k"})
    assert check(signer.token(claims(), kid="k"), keys).key_id == "k"
    assert "no rootcertbundle is configured" in str(refused(signer.token(claims()), keys))


def test_an_empty_chain_is_none() -> None:
    signer = Signer.of("P-256")
    for header in ({"kid": signer.thumbprint}, {"jwk": {**signer.jwk, "x5c": []}}):
        assert check(signer.token(claims(), x5c=[], **header)).key_id == signer.thumbprint


def test_a_signature_ends_with_the_certificates_that_vouch_for_it() -> None:
    """A remembered token must not outlive the chain it came with."""
    end = int(time.time()) + 50
    signer = Signer.of("P-256")
    short = Signer(signer.private, certificate("short", signer.private, end=end), "ES256")
    keys = read_bundle(pem(short.certificate), ALGORITHMS)
    assert check(short.token(claims()), keys).expires_at == end


def test_of_two_keys_with_one_id_the_one_that_signed_is_found() -> None:
    signers = [Signer.of("P-256"), Signer.of("P-256", 1), Signer.of("RSA")]
    keys = keyset(*({**signer.jwk, "kid": "shared"} for signer in signers))
    for signer in signers:
        assert check(signer.token(claims(), kid="shared"), keys).key_id == "shared"
    assert str(refused(Signer.of("P-256", 2).token(claims(), kid="shared"), keys)) == "the signature is wrong"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"kid": 5}, "kid in its header is not text"),
        ({"kid": None}, "kid in its header is not text"),
        ({"kid": ""}, "names no key"),
        ({"typ": "JWT"}, "names no key"),
        ({"x5c": "MIIB"}, "x5c in its header is no list"),
        ({"x5c": [5]}, "is not text"),
        ({"x5c": ["!"]}, "cannot be read"),
        ({"x5c": ["AAAA"]}, "cannot be read"),
        ({"x5c": ["AAAA"] * 6}, "more than 5 certificates"),
        ({"jwk": "text"}, "jwk in its header is no JSON object"),
        ({"jwk": {}}, "is no public key"),
        ({"jwk": {"kty": "oct", "k": "AAAA"}}, "is no public key"),
        ({"jwk": {"kty": "EC", "crv": "P-256", "x": 1, "y": 2}}, "is no public key"),
        ({"jwk": {"kty": {}, "kid": []}}, "kid in its header is not text"),
        ({"jwk": {"x5c": {}}}, "x5c in its header is no list"),
        ({"kid": Signer.of("P-256").thumbprint, "crit": ["exp"], "exp": 5}, "extension (crit, b64)"),
        ({"kid": Signer.of("P-256").thumbprint, "crit": []}, "extension (crit, b64)"),
        ({"kid": Signer.of("P-256").thumbprint, "crit": ["b64"], "b64": False}, "extension (crit, b64)"),
        ({"kid": Signer.of("P-256").thumbprint, "b64": False}, "extension (crit, b64)"),
    ],
)
def test_headers_that_make_no_sense_are_refused(header: dict[str, Any], why: str) -> None:
    assert why in str(refused(Signer.of("P-256").token(claims(), **header)))


@pytest.mark.parametrize(
    "header",
    [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"alg":NaN}', b'{"alg":"ES256","alg":"ES256"}', b"[" * 100_000,
     b'{"a":' + b"1" * 5000 + b"}"],
)  # fmt: skip
def test_headers_that_are_no_json_are_refused(header: bytes) -> None:
    token = compact(header, claims(), Signer.of("P-256").key, "ES256")
    assert str(refused(token)).startswith("malformed: its header is no JSON")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c.d.e",
        "=.=.=",
        "a+b.c.d",
        "ä.b.c",
        "a b.c.d",
        "\x00.\x00.\x00",
        "a.AAAA.AAAA",
    ],
)
def test_what_has_not_the_form_of_a_token_is_refused(token: str) -> None:
    assert str(refused(token)).startswith("malformed")


def test_a_token_whose_parts_were_swapped_is_refused() -> None:
    signer = Signer.of("P-256")
    first, second = (signer.token(claims(sub=name)).split(".") for name in ("alice", "bob"))
    assert "signature is wrong" in str(refused(f"{first[0]}.{second[1]}.{first[2]}"))
    assert "signature is wrong" in str(refused(f"{first[0]}.{first[1]}."))
    assert "signature is wrong" in str(refused(f"{first[0]}.{first[1]}.{b64(bytes(64))}"))


TEXT: Final = st.text(max_size=30) | st.text(st.characters(categories=("Cs", "Cc", "Ll")), max_size=5)
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
NAMES: Final = st.sampled_from(
    ["alg", "kid", "x5c", "jwk", "crit", "b64", "typ", "kty", "crv", "x", "y", "n", "e"]
)
REAL: Final = st.sampled_from(
    [*ALGORITHMS, *(Signer.of("P-256").header(form) for form in FORMS), Signer.of("P-256").x5c,
     Signer.of("P-256").jwk, Signer.of("P-256").thumbprint]
)  # fmt: skip
HEADERS: Final = st.dictionaries(NAMES, JSON | REAL, max_size=6)


def compact_unsigned(header: dict[str, Any]) -> str:
    return ".".join(b64(part) for part in (json.dumps(header).encode(), b"{}", b"signature"))


@pytest.mark.parametrize("text", ["\ud800", "\udfff\ud800", "\x00", "é"])
def test_a_sent_key_that_is_not_ascii_is_refused(text: str) -> None:
    """A lone surrogate has no UTF-8: encoding it fails."""
    for jwk in ({"kty": "EC", "crv": "P-256", "x": text, "y": "y"}, {"kty": "RSA", "n": text, "e": "AQAB"}):
        assert str(refused(compact_unsigned({"alg": "ES256", "jwk": jwk}))).isprintable()
    for alg, name, value in ((text, "kid", "x"), ("ES256", "kid", text), ("ES256", "x5c", [text])):
        refused(compact_unsigned({"alg": alg, name: value}))


@settings(deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_refused(text: str) -> None:
    """Malformed input would be a 500 instead of a 401."""
    refused(text)


@settings(deadline=None)
@given(st.tuples(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80)))
def test_any_bytes_in_three_parts_are_refused(parts: tuple[bytes, bytes, bytes]) -> None:
    refused(".".join(b64(part) for part in parts))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(HEADERS, JSON, st.binary(max_size=132))
def test_any_header_is_refused_or_was_signed(header: dict[str, Any], payload: object, signature: bytes) -> None:
    """Headers made of the names that mean something, with everything in them that may be and may not."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    refused(".".join(b64(part) for part in parts))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_token_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    signer = Signer.of("P-256")
    token = signer.token(claims(exp=1e10), **signer.header("jwk with x5c"))
    at = data.draw(st.integers(0, len(token) - 2))  # some bits of the last character mean nothing
    other = data.draw(st.sampled_from("AZaz09-_.=").filter(lambda character: character != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    refused(changed)
