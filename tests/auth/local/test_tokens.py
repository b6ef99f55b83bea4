"""SigningKeys and tokens: what one process signs every other takes, for so long and for nothing else."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from tests.auth.local.helpers import NOW, SECRET, Clock

from moorage.auth.access import Need
from moorage.auth.local import tokens as module
from moorage.auth.local.policy import Identity
from moorage.auth.local.signing_keys import SigningKeys
from moorage.auth.local.tokens import InvalidToken, Tokens

DAY: Final = 86400.0
ACCESS: Final = [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
ANN: Final = Identity("user", "ann")
JOB: Final = Identity("foreign", "job", "ci", (("ref", ("main",)),))


def make(clock: Clock, secret: bytes = SECRET, *, service: str = "moorage", lifetime_s: float = 300) -> Tokens:
    return Tokens(SigningKeys(secret, DAY, clock), service, lifetime_s, clock)


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_every_process_with_the_secret_takes_a_token_and_no_other() -> None:
    """Workers and nodes share the secret and nothing else."""
    clock = Clock()
    token, lasts_s = make(clock).access("ann", ACCESS, None)
    other = make(Clock()).read_access(token)
    assert (other.principal.name, lasts_s) == ("ann", 300)
    assert other.principal.grants.allows(Need("repository", "team/app", "pull"))
    assert not other.principal.grants.allows(Need("repository", "team/app", "push"))
    for stranger in (make(clock, b"another secret"), make(clock, service="other")):
        with pytest.raises(InvalidToken):
            stranger.read_access(token)


def test_a_token_has_the_claims_of_the_protocol() -> None:
    """Clients read some of them, and so do people who debug."""
    token, _ = make(Clock()).access("ann", ACCESS, None)
    claims = claims_of(token)
    assert claims.keys() == {"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "access"}
    assert {name: claims[name] for name in ("iss", "sub", "aud", "access")} == {
        "iss": "moorage", "sub": "ann", "aud": "moorage", "access": ACCESS,
    }  # fmt: skip
    assert claims["nbf"] < claims["iat"] == NOW < claims["exp"]
    assert all(isinstance(claims[name], int) for name in ("nbf", "iat", "exp"))
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert header == {"typ": "JWT", "alg": "HS256", "kid": str(int(NOW - NOW % DAY))}
    assert claims_of(make(Clock()).access("ann", ACCESS, None)[0])["jti"] != claims["jti"]


def test_a_token_ends() -> None:
    """A token that is sent in its last second would be refused."""
    clock = Clock()
    tokens = make(clock)
    token, lasts_s = tokens.access("ann", ACCESS, None)
    clock.now += lasts_s
    tokens.read_access(token)
    for reader in (tokens, make(clock)):
        clock.now = NOW + lasts_s + 31
        with pytest.raises(InvalidToken, match="over"):
            reader.read_access(token)


def test_a_token_never_outlives_what_it_was_given_for() -> None:
    """A robot's last token ends with its account, to the second."""
    clock = Clock()
    tokens = make(clock)
    token, lasts_s = tokens.access("robot+ci", ACCESS, NOW + 100)
    assert lasts_s == 100
    clock.now = NOW + 99
    tokens.read_access(token)
    clock.now = NOW + 100
    with pytest.raises(InvalidToken, match="over"):
        tokens.read_access(token)


def test_keys_change_with_the_clock_and_the_last_one_still_counts() -> None:
    """A push over midnight would be refused, or a key of last week accepted."""
    clock = Clock(NOW - NOW % DAY + DAY - 10)
    tokens = make(clock)
    before, _ = tokens.access("ann", ACCESS, None)
    clock.now += 20
    after, _ = tokens.access("ann", ACCESS, None)
    kids = [json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"] for token in (before, after)]
    assert int(kids[1]) - int(kids[0]) == DAY
    for reader in (tokens, make(clock)):
        assert reader.read_access(before).principal.name == reader.read_access(after).principal.name == "ann"
    keys = SigningKeys(SECRET, DAY, clock)
    assert keys.find("access", kids[0], lifetime_s=330) is not None
    clock.now += 500
    assert keys.find("access", kids[0], lifetime_s=330) is None
    assert keys.find("access", kids[0], lifetime_s=None) is not None


def test_nodes_whose_clocks_are_a_little_apart_agree() -> None:
    """NTP is not exact: a node ten seconds ahead would make all clients log in again at midnight."""
    ahead, behind = Clock(NOW - NOW % DAY + 5), Clock(NOW - NOW % DAY - 5)
    make(behind).read_access(make(ahead).access("ann", ACCESS, None)[0])
    make(ahead).read_access(make(behind).access("ann", ACCESS, None)[0])
    far = Clock(NOW - 3 * DAY)
    with pytest.raises(InvalidToken):
        make(far).read_access(make(ahead).access("ann", ACCESS, None)[0])
    with pytest.raises(InvalidToken, match="clocks"):
        make(Clock(NOW - 100)).read_access(make(Clock(NOW)).access("ann", ACCESS, None)[0])


@pytest.mark.parametrize("kid", [None, 5, "", "x", "-1", "1e9", "9" * 13, "٣"])
def test_no_other_name_of_a_key_is_taken(kid: object) -> None:
    assert SigningKeys(SECRET, DAY, Clock()).find("access", kid, lifetime_s=None) is None


def test_a_key_serves_one_purpose() -> None:
    """A refresh token lasts for ever: sent to the registry it must open nothing, and the other way round."""
    tokens = make(Clock())
    access, _ = tokens.access("ann", ACCESS, None)
    with pytest.raises(InvalidToken):
        tokens.read_access(tokens.refresh(ANN, "f", None))
    with pytest.raises(InvalidToken):
        tokens.read_refresh(access)


def test_what_is_not_signed_by_us_is_nothing() -> None:
    """The classic holes: no signature, an empty one, another key or algorithm, changed claims."""
    tokens, clock = make(Clock()), Clock()
    good, _ = tokens.access("ann", ACCESS, None)
    head, body, signature = good.split(".")
    kid = str(int(NOW - NOW % DAY))
    claims = claims_of(good)

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    other = OctKey.import_key(b"k" * 32)
    stranger = make(clock, b"another secret").access("ann", ACCESS, None)[0]
    changed = part({**claims, "sub": "root"})
    for bad in (
        "", ".", "..", "a.b.c", good + "x", good[:-2], f"{head}.{body}.", f"{head}.{changed}.{signature}",
        f"{part({'alg': 'none', 'kid': kid})}.{body}.", f"{part({'alg': 'none', 'kid': kid})}.{body}.{signature}",
        f"{part({'alg': 'HS512', 'kid': kid})}.{body}.{signature}", f"{part([])}.{body}.{signature}",
        f"{part({'alg': 'HS256'})}.{body}.{signature}", stranger, "x" * 70_000, "ä.ö.ü", "\udcff.a.b",
        jwt.encode({"alg": "HS256", "kid": kid}, claims, other),
        jwt.encode({"alg": "HS256", "kid": kid, "jwk": other.as_dict()}, claims, other),
    ):  # fmt: skip
        with pytest.raises(InvalidToken):
            tokens.read_access(bad)
    assert tokens.read_access(good).principal.name == "ann"


def signed(claims: dict[str, Any], *, begun: float) -> str:
    """A token with these claims and a good signature of the key that began at `begun`."""
    key = SigningKeys(SECRET, DAY, Clock(begun)).current("access")
    return jwt.encode({"alg": "HS256", "kid": key.kid}, claims, key, ["HS256"])


@pytest.mark.parametrize("claim", ["iss", "aud"])
def test_issuer_and_audience_both_have_to_be_this_service(claim: str) -> None:
    """Registries that share a secret but not a name take no token of each other."""
    claims = claims_of(make(Clock()).access("ann", ACCESS, None)[0])
    make(Clock()).read_access(signed(claims, begun=NOW))
    with pytest.raises(InvalidToken, match="for another service"):
        make(Clock()).read_access(signed({**claims, claim: "other"}, begun=NOW))


def test_a_key_is_accepted_until_the_last_token_that_it_signed_is_over() -> None:
    """A leaked key would be accepted longer than lifetime, grace and a minute for clocks after its period."""
    claims = {**claims_of(make(Clock()).access("ann", ACCESS, None)[0]), "exp": NOW + 9 * DAY, "nbf": 0}
    token, begun = signed(claims, begun=NOW), NOW - NOW % DAY
    make(Clock(begun + DAY + 300 + 30 + 60)).read_access(token)
    with pytest.raises(InvalidToken, match="a key that is not in use"):
        make(Clock(begun + DAY + 300 + 30 + 61)).read_access(token)


def test_only_a_token_that_is_over_is_an_ordinary_refusal() -> None:
    """Every honest client sends one some day; everything else is a warning in the log."""
    clock = Clock()
    tokens = make(clock)
    access, refresh = tokens.access("ann", ACCESS, NOW + 10)[0], tokens.refresh(ANN, "print", NOW + 10)
    clock.now = NOW + 10
    for token, read, ordinary in (
        (access, tokens.read_access, True),
        (refresh, tokens.read_refresh, True),
        (access, tokens.read_refresh, False),
        ("a.b.c", tokens.read_access, False),
    ):
        with pytest.raises(InvalidToken) as caught:
            read(token)
        assert caught.value.ordinary is ordinary


def test_a_token_beyond_the_limit_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding takes time in proportion to the length, without credentials."""
    tokens = make(Clock())
    access, refresh = tokens.access("ann", ACCESS, None)[0], tokens.refresh(ANN, "print", None)
    readers = ((access, tokens.read_access), (refresh, tokens.read_refresh))
    for token, read in readers:
        monkeypatch.setattr(module, "_LIMIT_CHARS", len(token) - 1)
        with pytest.raises(InvalidToken, match="too long"):
            read(token)
        monkeypatch.setattr(module, "_LIMIT_CHARS", len(token))
        read(token)


def test_the_limit_of_a_token_is_64_kib() -> None:
    """A token for a hundred repositories fits, and more than a request's headers could carry is refused."""
    tokens = make(Clock())
    long = Identity("foreign", "job", "ci", (("ref", ("x" * 50_000,)),))
    with pytest.raises(InvalidToken, match="too long"):
        tokens.read_refresh(tokens.refresh(long, "print", None))
    short = Identity("foreign", "job", "ci", (("ref", ("x" * 40_000,)),))
    assert tokens.read_refresh(tokens.refresh(short, "print", None)).identity == short


def test_a_refresh_token_says_who_and_nothing_of_what() -> None:
    """What he may do is looked up each time."""
    tokens = make(Clock())
    for identity, ends in ((ANN, None), (JOB, NOW + 60), (Identity("robot", "ci"), NOW + 60)):
        token = tokens.refresh(identity, "print", ends)
        found = make(Clock()).read_refresh(token)
        assert (found.identity, found.fingerprint, found.expires_at) == (identity, "print", ends)
        assert "access" not in claims_of(token)
    with pytest.raises(InvalidToken):
        make(Clock(), service="other").read_refresh(token)


def test_a_refresh_token_without_an_end_lasts_through_any_rotation() -> None:
    """`docker login` is done once."""
    clock = Clock()
    token = make(clock).refresh(ANN, "print", None)
    ending = make(clock).refresh(ANN, "print", NOW + 60)
    clock.now += 3000 * DAY
    assert make(clock).read_refresh(token).identity == ANN
    with pytest.raises(InvalidToken, match="over"):
        make(clock).read_refresh(ending)


def test_a_fingerprint_tells_hashes_apart_and_nothing_about_them() -> None:
    """It is in a token, which clients keep in a file."""
    keys = SigningKeys(SECRET, DAY, Clock())
    assert keys.fingerprint(b"a") == SigningKeys(SECRET, 60, Clock(1)).fingerprint(b"a") != keys.fingerprint(b"b")
    assert keys.fingerprint(b"a") != SigningKeys(b"other", DAY, Clock()).fingerprint(b"a")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry reads millions of tokens in its life."""
    monkeypatch.setattr(module, "_CACHED_TOKENS", 3)
    tokens = make(Clock())
    for _ in range(10):
        tokens.read_access(tokens.access("ann", ACCESS, None)[0])
    assert len(tokens._read) <= 3
