"""Authentication by token: who is admitted, the challenges, and the log."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
import structlog
from tests.auth.signing import ISSUER, SERVICE, Signer, claims, pem

from moorage.auth.access import AccessRequest, Basic, Bearer, Need
from moorage.auth.token import authority as module
from moorage.auth.token.build import TokenOptions, make
from moorage.errors import Unauthorized
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from moorage.auth.access import Credentials, Principal
    from moorage.auth.token.authority import TokenAuthority

REALM: Final = "https://auth.test/token"
NAME: Final = "library/app"
PULL, PUSH = (Need("repository", NAME, action) for action in ("pull", "push"))
SIGNER, OTHER = Signer.of("P-256"), Signer.of("P-256", 1)


class Clock:
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class World:
    """An authority over a bundle that may be changed, and how it answers."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.bundle = folder / "bundle.pem"
        self.bundle.write_bytes(pem(SIGNER.certificate))
        usual = {"realm": REALM, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(self.bundle)}
        self.clock = Clock()
        self.authority: TokenAuthority = make(TokenOptions(**{**usual, **options}), self.clock)

    async def admit(self, token: str | Credentials | None, *needs: Need, **requested: Any) -> Principal:
        credentials = Bearer(token) if isinstance(token, str) else token
        return await self.authority.admit(credentials, AccessRequest(needs or (PULL,), **requested))

    async def refuse(self, token: str | Credentials | None, *needs: Need, **requested: Any) -> Refusal:
        with structlog.testing.capture_logs() as logs, pytest.raises(Unauthorized) as caught:
            await self.admit(token, *needs, **requested)
        (line,) = logs
        return Refusal(caught.value, line)


class Refusal:
    """The challenge for the client, and the line in the log."""

    def __init__(self, error: Unauthorized, line: Any) -> None:
        self.needs, self.challenge, self.line = error.needs, error.challenge, line
        scheme, _, rest = error.challenge.partition(" ")
        assert scheme == "Bearer"
        self.parameters = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', rest))
        assert rest == ",".join(f'{name}="{text}"' for name, text in self.parameters.items()), (
            "no blanks, all quoted"
        )

    @property
    def reason(self) -> str:
        text: str = self.line["event"]
        assert text.startswith("not authorized: ")
        return text.removeprefix("not authorized: ")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    await made.authority.close()


async def test_a_valid_token_is_admitted(world: World) -> None:
    principal = await world.admit(SIGNER.token(claims()))
    assert principal.name == "alice"
    assert not principal.grants.reads_everything


async def test_without_a_token_the_challenge_says_where_to_get_one(world: World) -> None:
    """No `error`: containerd takes one to mean that its token is bad, and there was none."""
    refusal = await world.refuse(None)
    assert refusal.challenge == f'Bearer realm="{REALM}",service="{SERVICE}",scope="repository:{NAME}:pull"'
    assert refusal.needs == (("repository", NAME, "pull"),)
    assert refusal.reason == "no token"
    assert refusal.line["log_level"] == "info"


@pytest.mark.parametrize(("credentials", "given"), [(Basic(b"alice", b"secret"), True), (None, True)])
async def test_other_credentials_are_no_token(world: World, credentials: Credentials | None, given: bool) -> None:
    """Basic is what a client tries that remembers another registry's password; it is not looked at."""
    refusal = await world.refuse(credentials, has_credentials=given)
    assert "error" not in refusal.parameters
    assert refusal.reason == "the Authorization header holds no bearer token"


async def test_scopes_come_in_a_fixed_order_with_the_target_first(world: World) -> None:
    """Some token servers read only the first; the reference's order is random."""
    refusal = await world.refuse(None, PULL, PUSH, Need("repository", "from/there", "pull"))
    assert refusal.parameters["scope"] == f"repository:{NAME}:pull,push repository:from/there:pull"
    with pytest.raises(Unauthorized) as caught:
        await world.authority.admit(None, AccessRequest())
    assert caught.value.challenge == f'Bearer realm="{REALM}",service="{SERVICE}"'


async def test_an_insufficient_token_gets_the_required_scope(world: World) -> None:
    """Docker prints "denied", containers/image requests more."""
    refusal = await world.refuse(SIGNER.token(claims()), PULL, PUSH)
    assert refusal.parameters["error"] == "insufficient_scope"
    assert refusal.parameters["scope"] == f"repository:{NAME}:pull,push"
    assert refusal.needs == (("repository", NAME, "pull"), ("repository", NAME, "push"))
    assert refusal.line["auth.user.name"] == "alice"
    assert refusal.line["asked"] == f"repository:{NAME}:pull,push"
    assert refusal.line["log_level"] == "info"


async def test_a_token_without_access_is_enough_where_only_a_name_is_asked(world: World) -> None:
    """`docker login` asks for no scope and wants 200 of /v2/."""
    principal = await world.authority.admit(Bearer(SIGNER.token(claims(access=None))), AccessRequest())
    assert principal.name == "alice"


async def test_what_may_be_granted_instead_is(world: World) -> None:
    delete = Need("repository", NAME, "delete")
    token = SIGNER.token(claims(access=[{"type": "repository", "name": NAME, "actions": ["delete"]}]))
    requested = AccessRequest((PULL, PUSH), alternative=(delete,))
    assert (await world.authority.admit(Bearer(token), requested)).name == "alice"


@pytest.mark.parametrize(
    ("make_token", "reason", "level"),
    [
        (lambda: "garbage", "malformed: 1 parts", "warning"),
        (lambda: OTHER.token(claims(), kid=OTHER.thumbprint), "signed by an unknown key", "warning"),
        (lambda: OTHER.token(claims(), kid=SIGNER.thumbprint), "the signature is wrong", "warning"),
        (lambda: OTHER.token(claims()), "no certificate of rootcertbundle vouches for", "warning"),
        (lambda: SIGNER.token(claims(iss="mallory")), "issued by 'mallory'", "warning"),
        (lambda: SIGNER.token(claims(aud="other")), "meant for 'other'", "warning"),
        (lambda: SIGNER.token(claims(exp=1000)), "expired ", "info"),
        (lambda: SIGNER.token(claims(nbf=time.time() + 5000)), "not valid before ", "warning"),
        (lambda: SIGNER.token(claims(access=5)), "malformed: its access", "warning"),
    ],
)
async def test_a_bad_token_is_invalid_to_the_client_and_named_in_the_log(
    world: World, make_token: Any, reason: str, level: str
) -> None:
    """Different answers would help an attacker; the log has the reason for the operator."""
    token = make_token()
    refusal = await world.refuse(token, remote="192.0.2.7")
    assert refusal.parameters == {
        "realm": REALM, "service": SERVICE, "scope": f"repository:{NAME}:pull", "error": "invalid_token"
    }  # fmt: skip
    assert refusal.reason.startswith(reason)
    assert refusal.line["log_level"] == level
    assert refusal.line["http.request.remoteaddr"] == "192.0.2.7"
    shown = json.dumps(refusal.line)
    assert all(part not in shown for part in token.split(".") if part)


async def test_the_log_names_key_and_user_where_they_are_known(world: World) -> None:
    wrong = await world.refuse(SIGNER.token(claims(aud="x"), kid=SIGNER.libtrust))
    assert wrong.line["key"] == SIGNER.libtrust
    assert wrong.line["auth.user.name"] == "alice"
    unknown = await world.refuse(OTHER.token(claims(), kid="k" * 5000))
    assert unknown.line["key"] == "k" * 200
    assert "auth.user.name" not in unknown.line, "the name is not verified"


async def test_values_in_a_challenge_are_quoted(tmp_path: Path) -> None:
    world = World(tmp_path, realm='https://auth/"token', service="a\\b\r\nSet-Cookie: x")
    challenge = (await world.refuse(None)).challenge
    assert challenge.startswith('Bearer realm="https://auth/\\"token",service="a\\\\bSet-Cookie: x",scope=')


@pytest.mark.parametrize(
    ("host", "scheme", "forwarded", "realm"),
    [
        ("reg.test", "https", False, "https://reg.test/auth/token"),
        ("reg.test:5000", "https", True, "https://reg.test:5000/auth/token"),
        ("reg.test", "http", True, "http://reg.test/auth/token"),
        ("reg.test", "http", False, "https://reg.test/auth/token"),
        ("127.0.0.1:5000", "http", False, "http://127.0.0.1:5000/auth/token"),
        ("127.0.0.1:5000", "https", False, "https://127.0.0.1:5000/auth/token"),
        ("localhost:5000", "http", False, "http://localhost:5000/auth/token"),
        ("reg.localhost", "http", False, "http://reg.localhost/auth/token"),
        ("[::1]:5000", "http", False, "http://[::1]:5000/auth/token"),
        ("[2001:db8::1]", "http", False, "https://[2001:db8::1]/auth/token"),
        ("192.0.2.1:80", "http", False, "https://192.0.2.1:80/auth/token"),
        ("", "https", False, REALM),
    ],
)
async def test_the_realm_follows_the_host_that_was_asked(
    tmp_path: Path, host: str, scheme: str, forwarded: bool, realm: str
) -> None:
    """With `autoredirect`.  Plain HTTP, where a password would be seen, is never guessed."""
    world = World(tmp_path, redirect_path="/auth/token")
    refusal = await world.refuse(None, host=host, scheme=scheme, forwarded=forwarded)
    assert refusal.parameters["realm"] == realm


async def test_without_autoredirect_the_realm_is_fixed(world: World) -> None:
    assert (await world.refuse(None, host="reg.test", scheme="https")).parameters["realm"] == REALM


@pytest.mark.parametrize("path", ["/tokens/here/", "tokens/here/"])
async def test_the_path_of_autoredirect_may_be_chosen(tmp_path: Path, path: str) -> None:
    world = World(tmp_path, redirect_path=path)
    assert (await world.refuse(None, host="a.test")).parameters["realm"] == "https://a.test/tokens/here/"


async def test_a_token_is_verified_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull is a hundred requests with one token."""
    token = SIGNER.token(claims())
    first = await world.admit(token)

    def never(*_: object) -> None:
        raise AssertionError("verified again")

    monkeypatch.setattr(module, "verify_signature", never)
    assert await world.admit(token) is first
    assert (await world.refuse(token, PUSH)).parameters["error"] == "insufficient_scope"


async def test_a_remembered_token_ends_when_it_says(world: World) -> None:
    token = SIGNER.token(claims(exp=world.clock.now + 100))
    world.clock.now += 100 + 60
    await world.admit(token)
    world.clock.now += 1
    assert (await world.refuse(token)).reason.startswith("expired")


async def test_a_remembered_token_ends_with_its_key(world: World) -> None:
    """A leaked key is withdrawn: tokens that it signed would stay valid."""
    token = SIGNER.token(claims())
    await world.admit(token)
    world.bundle.write_bytes(pem(OTHER.certificate))
    world.clock.now += module.RELOAD_EVERY_S
    with pytest.raises(Unauthorized), structlog.testing.capture_logs():
        await world.admit(token)
    await world.admit(OTHER.token(claims()))


@pytest.mark.parametrize("form", ["thumbprint", "x5c", "jwk"])
async def test_a_new_key_counts_at_once(world: World, form: str) -> None:
    """The token server writes a new key and signs with it at once; the clock does not advance here."""
    with structlog.testing.capture_logs():
        with pytest.raises(Unauthorized):
            await world.admit(OTHER.token(claims(), **OTHER.header(form)))
        world.bundle.write_bytes(pem(SIGNER.certificate, OTHER.certificate))
        assert (await world.admit(OTHER.token(claims(), **OTHER.header(form)))).name == "alice"


async def test_many_requests_share_one_look_at_the_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of tokens of unknown keys must not become a flood of file reads."""
    looks = 0
    reload = world.authority._files.reload

    def counted() -> bool:
        nonlocal looks
        looks += 1
        return reload()

    monkeypatch.setattr(world.authority._files, "reload", counted)
    token = OTHER.token(claims(), kid="unknown")
    with structlog.testing.capture_logs():
        answers = await asyncio.gather(*(world.admit(token) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(answer, Unauthorized) for answer in answers)
    assert looks == 1


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used go first, and what was refused is not remembered at all."""
    tokens = [SIGNER.token(claims(sub=f"user{number}")) for number in range(4)]
    monkeypatch.setattr(module, "CACHED_BYTES", 3 * len(tokens[0]))
    world = World(tmp_path)
    remembered = world.authority._principals._entries
    for token in tokens[:3]:
        await world.admit(token)
    await world.admit(tokens[0])
    await world.admit(tokens[3])
    assert len(remembered) == 3
    names = [entry[0].name for entry in remembered.values()]
    assert names == ["user2", "user0", "user3"]
    for number in range(20):
        await world.refuse(f"{tokens[0][:-8]}{number:08}")
        await world.refuse(f"garbage {number}")
    assert len(remembered) == 3
    world.clock.now += 3600
    await world.refuse(tokens[0])
    assert len(remembered) == 2


async def test_a_clock_that_is_set_back_does_not_stop_looking(world: World) -> None:
    await world.admit(SIGNER.token(claims()))
    world.clock.now -= 30
    world.bundle.write_bytes(pem(OTHER.certificate))
    with structlog.testing.capture_logs(), pytest.raises(Unauthorized):
        await world.admit(SIGNER.token(claims()))


def test_a_registry_without_keys_does_not_start(tmp_path: Path) -> None:
    options = TokenOptions(REALM, SERVICE, ISSUER, rootcertbundle=str(tmp_path / "none.pem"))
    with pytest.raises(StartupError, match=r"auth\.token\.rootcertbundle .*none\.pem: No such file"):
        make(options)


def test_warnings_name_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [SIGNER.jwk, {"kty": "future"}]}))
    options = TokenOptions(REALM, SERVICE, ISSUER, jwks=str(path), algorithms=("ES256",))
    assert make(options).warnings == [f"auth.token.jwks {path}: key 1 is left out: its kty is not known"]
