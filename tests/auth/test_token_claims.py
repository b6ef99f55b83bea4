"""Claims of a signed token: audience, times and access."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.auth.signing import ISSUER, SERVICE

from moorage.auth.access import CATALOG, Need
from moorage.auth.token.claims import LEEWAY_S, Claims, read_claims
from moorage.auth.token.jose import TokenRefused

NOW: Final = 1_700_000_000.25
PULL, PUSH, DELETE = (Need("repository", "a", action) for action in ("pull", "push", "delete"))


def document(**over: Any) -> dict[str, Any]:
    usual = {"iss": ISSUER, "aud": SERVICE, "sub": "alice", "exp": NOW + 300}
    return {name: value for name, value in {**usual, **over}.items() if value != "absent"}


def claims(**over: Any) -> Claims:
    return read_claims(json.dumps(document(**over)).encode(), issuer=ISSUER, service=SERVICE, now=NOW)


def why(**over: Any) -> str:
    with pytest.raises(TokenRefused) as caught:
        claims(**over)
    return str(caught.value)


def test_the_issuer_is_compared_to_the_letter() -> None:
    assert claims().subject == "alice"
    for wrong in ("", f"{ISSUER}/", ISSUER.upper(), "absent"):
        assert why(iss=wrong).startswith("issued by ")


@pytest.mark.parametrize("audience", [SERVICE, [SERVICE], ["another", SERVICE]])
def test_the_audience_is_this_service_among_others(audience: Any) -> None:
    """Text or a list: version 2 knew only text, the RFC has both."""
    assert claims(aud=audience).subject == "alice"


@pytest.mark.parametrize("audience", ["", "another", f"{SERVICE}.evil", [], ["another"], "absent"])
def test_a_token_for_another_service_is_refused(audience: Any) -> None:
    assert why(aud=audience).startswith("meant for ")


def test_clocks_may_be_a_minute_apart() -> None:
    assert claims(exp=NOW - LEEWAY_S).expires_at == NOW
    assert why(exp=NOW - LEEWAY_S - 0.5).startswith("expired 60 s ago")
    assert claims(nbf=NOW + LEEWAY_S).subject == "alice"
    assert "do the clocks agree?" in why(nbf=NOW + LEEWAY_S + 0.5)


def test_a_token_ends_and_need_not_say_when_it_began() -> None:
    assert why(exp="absent") == "it has no exp"
    assert why(exp=None) == "it has no exp"
    assert claims(nbf=None).subject == "alice"


def test_times_may_have_fractions() -> None:
    """RFC 7519 allows them, Python's and JavaScript's clocks give them; the reference refuses them."""
    assert claims(exp=NOW + 0.125).expires_at == NOW + 60.125


def test_only_an_honest_clients_token_expires() -> None:
    with pytest.raises(TokenRefused) as caught:
        claims(exp=1)
    assert caught.value.ordinary
    assert caught.value.subject == "alice"


@pytest.mark.parametrize("value", ["1700000300", True, [], {}, 10**400, -(10**400)])
def test_what_is_no_time_is_refused(value: Any) -> None:
    for name in ("exp", "nbf"):
        assert why(**{name: value}).startswith(f"malformed: its {name} is no ")


def test_endless_numbers_are_no_times() -> None:
    for text in ("NaN", "Infinity", "1e999"):
        data = json.dumps(document(exp=5)).replace(": 5", f": {text}").encode()
        with pytest.raises(TokenRefused, match="malformed"):
            read_claims(data, issuer=ISSUER, service=SERVICE, now=NOW)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"iss": 5}, "its iss is not text"),
        ({"sub": 5}, "its sub is not text"),
        ({"aud": 5}, "its aud is neither text nor a list of text"),
        ({"aud": [SERVICE, 5]}, "its aud is neither"),
        ({"access": {}}, "its access is no list"),
        ({"access": "repository:a:pull"}, "its access is no list"),
        ({"access": ["repository:a:pull"]}, "is no JSON object"),
        ({"access": [{"type": 5}]}, "its type is not text"),
        ({"access": [{"name": []}]}, "its name is not text"),
        ({"access": [{"class": 5}]}, "its class is not text"),
        ({"access": [{"actions": "pull"}]}, "are no list of text"),
        ({"access": [{"actions": ["pull", 5]}]}, "are no list of text"),
    ],
)
def test_claims_of_the_wrong_type_are_refused(over: dict[str, Any], message: str) -> None:
    assert why(**over).startswith("malformed: ")
    assert message in why(**over)


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff", b'{"iss":"a","iss":"b"}', b"[" * 99_999])
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(TokenRefused, match="malformed: its payload"):
        read_claims(payload, issuer=ISSUER, service=SERVICE, now=NOW)


def test_a_name_may_be_missing_or_odd() -> None:
    """Anonymous tokens have none; half a character must not break the log that it goes to."""
    assert claims(sub="absent").subject == ""
    assert claims(sub=None).subject == ""
    assert claims(sub="jürgen").subject == "jürgen"
    assert claims(sub="a\ud800").subject == "a?"


def entry(name: str = "a", actions: Any = ("pull",), **over: Any) -> dict[str, Any]:
    return {"type": "repository", "name": name, "actions": list(actions), **over}


@pytest.mark.parametrize(
    ("access", "granted"),
    [
        ("absent", set()),
        (None, set()),
        ([], set()),
        ([{}], set()),
        ([entry(actions=())], set()),
        ([{"type": "repository", "name": "a", "actions": None}], set()),
        ([entry()], {PULL}),
        ([entry(), entry(actions=("push",))], {PULL, PUSH}),
        ([entry(actions=("*",))], {PULL, PUSH, DELETE}),
        ([entry(actions=("PULL",))], set()),
        ([entry("a/b")], set()),
        ([entry(type="repository(plugin)")], set()),
        ([entry(**{"class": "plugin"})], {PULL}),
        ([{"type": "registry", "name": "catalog", "actions": ["*"]}], {CATALOG}),
        ([{"type": "registry", "name": "catalog", "actions": ["search"]}], set()),
    ],
)
def test_exactly_what_is_listed_is_allowed(access: Any, granted: set[Need]) -> None:
    grants = claims(access=access).grants
    assert {need for need in (PULL, PUSH, DELETE, CATALOG) if grants.allows(need)} == granted
    assert not grants.reads_everything


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=15,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "access"]), JSON))
def test_any_signed_claims_are_understood_or_refused(over: dict[str, Any]) -> None:
    """A mistake of a token server would be a 500 instead of a 401 with a reason in the log."""
    with contextlib.suppress(TokenRefused):
        assert claims(**over).expires_at >= NOW


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_signed_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(TokenRefused):
        read_claims(payload, issuer=ISSUER, service=SERVICE, now=NOW)
