"""Signed tokens of a configured issuer whose contents are malformed: refused, never an internal error.

An issuer signs what its users type: branch names and commit messages end up in claims.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auth.local.helpers import AUDIENCE, ISSUER, NOW, SECRET, Clock, FakeIssuer, policy
from tests.auth.signing import b64, compact

from moorage.auth.local.oidc_tokens import OidcVerifier
from moorage.auth.local.signing_keys import SigningKeys
from moorage.auth.local.tokens import InvalidToken, Tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.auth.local.policy import AccessPolicy, Identity

POLICY: Final = f"""
issuers:
  - name: ci
    issuer: {ISSUER}
    audience: {AUDIENCE}
    jwks: keys.json
    rules:
      - {{claims: {{branch: "**"}}, repositories: "{{branch}}/**", allow: pull}}
      - {{claims: {{project: acme}}, repositories: "{{branch}}/**", allow: push}}
"""
CI: Final = FakeIssuer()
CLAIMS: Final = ("iss", "aud", "sub", "exp", "nbf", "iat", "jti", "branch", "project", "access")
USUAL: Final = {
    "iss": json.dumps(ISSUER), "aud": json.dumps(AUDIENCE), "sub": '"job"', "exp": f"{NOW + 300:.0f}",
    "branch": '"main"', "project": '"acme"',
}  # fmt: skip
VALUES: Final = (
    f"1{'0' * 400}", f"-1{'0' * 400}", f"1{'0' * 4200}", f"1{'0' * 5000}", "1e400", "-1e400", "1e308", "-1e308",
    "NaN", "Infinity", "-Infinity", "0", "-1", "0.1", "-0.0", "null", "true", "[]", "{}", '""', '"x"', r'"\ud800"',
    r'"\udfff\ud800"', r'["\ud800", "main"]', r'{"\ud800": "\udc00"}', r'"\u0000"', r'"\u202e\u009b\r\n"',
    '["a", ["b"]]', f"{'[' * 900}{']' * 900}", f"{'[' * 5000}{']' * 5000}", '{"a":' * 1500 + "1" + "}" * 1500,
    f'"{"x" * 10000}"',
)  # fmt: skip
"""JSON texts, some of which are no JSON."""

JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=("L", "Cc", "Cs", "Cf")), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=15,
).map(json.dumps)


def signed(claims: Mapping[str, str]) -> str:
    payload = ",".join(f'"{name}":{value}' for name, value in {**USUAL, **claims}.items())
    return compact({"alg": "ES256", "kid": "key-1"}, f"{{{payload}}}".encode(), CI.key, "ES256")


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> AccessPolicy:
    folder = tmp_path_factory.mktemp("issuer")
    (folder / "keys.json").write_bytes(CI.jwks())
    return policy(folder, POLICY)


async def proven(token: str, rules: AccessPolicy) -> Identity | None:
    """Return the identity, None for a refused token; an accepted one is signed into a token and read again."""
    foreign, tokens = OidcVerifier(Clock()), Tokens(SigningKeys(SECRET, 86400, Clock()), "moorage", 300, Clock())
    try:
        identity = await foreign.verify(token, rules)
    except InvalidToken:
        return None
    finally:
        await foreign.close()
    rules.grants_of(identity)
    assert (
        tokens.read_access(tokens.access(identity.display_name, [], None)[0]).principal.name
        == identity.display_name
    )
    assert tokens.read_refresh(tokens.refresh(identity, "", None)).identity == identity
    return identity


async def test_a_valid_token_is_accepted(rules: AccessPolicy) -> None:
    """Otherwise the tests below would pass with every token refused."""
    identity = await proven(signed({}), rules)
    assert identity is not None
    assert identity.claims == (("branch", ("main",)), ("project", ("acme",)))


@pytest.mark.parametrize("claim", CLAIMS)
async def test_no_value_of_a_claim_is_an_internal_error(rules: AccessPolicy, claim: str) -> None:
    for value in VALUES:
        await proven(signed({claim: value}), rules)


@pytest.mark.parametrize("claim", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value", [f"1{'0' * 400}", f"-1{'0' * 400}", "1e400", "-1e400", "NaN", "true", '"1"', "[]"]
)
async def test_a_time_that_is_no_number_of_seconds_is_refused(rules: AccessPolicy, claim: str, value: str) -> None:
    """`exp` of 400 digits was a 500: such an integer cannot become a float."""
    assert await proven(signed({claim: value}), rules) is None


async def test_text_that_is_not_unicode_matches_no_rule(rules: AccessPolicy) -> None:
    """A lone surrogate has no UTF-8: signing it into a token would be a 500."""
    identity = await proven(signed({"branch": r'["\ud800", "x\udc00", "ok"]'}), rules)
    assert identity is not None
    assert identity.claims == (("branch", ("ok",)), ("project", ("acme",)))
    assert await proven(signed({"branch": r'"\ud800"', "project": '"other"'}), rules) is None


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(CLAIMS), JSON | st.sampled_from(VALUES), max_size=4))
def test_no_claims_are_an_internal_error(rules: AccessPolicy, claims: dict[str, str]) -> None:
    asyncio.run(proven(signed(claims), rules))


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "x5c", "b64"]), JSON), JSON)
def test_no_header_is_an_internal_error(rules: AccessPolicy, header: dict[str, str], payload: str) -> None:
    """Also for the readers of our own tokens."""
    tokens = Tokens(SigningKeys(SECRET, 86400, Clock()), "moorage", 300, Clock())
    text = ",".join(f'"{name}":{value}' for name, value in {"alg": '"HS256"', "kid": '"0"', **header}.items())
    token = f"{b64(f'{{{text}}}'.encode())}.{b64(payload.encode())}.{b64(b'x')}"
    assert asyncio.run(proven(token, rules)) is None
    for read in (tokens.read_access, tokens.read_refresh):
        with pytest.raises(InvalidToken):
            read(token)


@pytest.mark.parametrize("value", VALUES)
def test_no_header_of_a_token_of_ours_is_an_internal_error(value: str) -> None:
    tokens = Tokens(SigningKeys(SECRET, 86400, Clock()), "moorage", 300, Clock())
    for head in (value, f'{{"alg":"HS256","kid":{value}}}', f'{{"alg":{value},"kid":"0"}}'):
        token = f"{b64(head.encode())}.{b64(b'{}')}.{b64(b'x')}"
        for read in (tokens.read_access, tokens.read_refresh):
            with pytest.raises(InvalidToken):
                read(token)
