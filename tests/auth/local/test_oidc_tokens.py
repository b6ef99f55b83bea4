"""Tokens of other issuers, and where their keys come from: who is let in, and what happens meanwhile."""

from __future__ import annotations

import asyncio
import base64
import hmac
import http.server
import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from tests.auth.local.helpers import AUDIENCE, ISSUER, NOW, Clock, FakeIssuer, may, policy

from moorage.auth.local import jwks
from moorage.auth.local.jwks import FileKeys, KeysUnavailable, RemoteKeys, fetch, key_source
from moorage.auth.local.oidc_tokens import OidcVerifier
from moorage.auth.local.policy import AccessPolicy, Identity, Issuer
from moorage.auth.local.tokens import InvalidToken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

POLICY: Final = f"""
issuers:
  - name: ci
    issuer: {ISSUER}
    audience: [{AUDIENCE}, other.example]
    jwks: keys.json
    rules:
      - claims: {{project_path: "acme/*", protected: "true", groups: dev}}
        repositories: "{{project_path}}"
        allow: [pull, push]
"""
GOOD: Final[dict[str, Any]] = {
    "project_path": "acme/app",
    "protected": True,
    "groups": ["dev", "ops"],
    "more": "x",
}


@pytest.fixture
def ci(tmp_path: Path) -> FakeIssuer:
    issuer = FakeIssuer()
    (tmp_path / "keys.json").write_bytes(issuer.jwks())
    return issuer


@pytest.fixture
def rules(ci: FakeIssuer, tmp_path: Path) -> AccessPolicy:
    return policy(tmp_path, POLICY)


@pytest.fixture
async def foreign() -> AsyncIterator[OidcVerifier]:
    proving = OidcVerifier(Clock())
    yield proving
    await proving.close()


async def test_a_job_is_who_its_issuer_says(ci: FakeIssuer, rules: AccessPolicy, foreign: OidcVerifier) -> None:
    """Lists match by any of their values, true and false as they are written; what no rule needs is not kept."""
    identity = await foreign.verify(ci.token(**GOOD), rules)
    assert identity == Identity(
        "foreign", "job-1", "ci",
        (("groups", ("dev", "ops")), ("project_path", ("acme/app",)), ("protected", ("true",))),
    )  # fmt: skip
    assert may(rules.grants_of(identity), "acme/app") == "pull push"
    await foreign.verify(ci.token(**GOOD, aud=["x", "other.example"]), rules)
    await foreign.verify(ci.token(**GOOD, exp=NOW - 59), rules)
    await foreign.verify(ci.token(**GOOD, nbf=NOW + 59, exp=NOW + 100.5), rules)
    await foreign.verify(ci.token(**GOOD, nbf=None), rules)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"}, {"iss": f"{ISSUER}/"}, {"iss": [ISSUER]}, {"iss": None},
        {"aud": "another"}, {"aud": None}, {"aud": []}, {"aud": [[AUDIENCE]]}, {"aud": f"{AUDIENCE}/x"},
        {"exp": NOW - 61}, {"exp": None}, {"exp": "9999999999"}, {"exp": True}, {"exp": float("nan")},
        {"exp": float("inf")}, {"nbf": NOW + 61}, {"nbf": "x"}, {"nbf": float("nan")},
        {"project_path": "evil/app"}, {"project_path": None}, {"project_path": {"a": "acme/app"}},
        {"protected": False}, {"groups": ["ops"]}, {"groups": [["dev"]]},
    ],
)  # fmt: skip
async def test_other_tokens_are_refused(
    ci: FakeIssuer, rules: AccessPolicy, foreign: OidcVerifier, claims: dict[str, Any]
) -> None:
    """A token for another audience was sent to another service, which could use it here."""
    with pytest.raises(InvalidToken):
        await foreign.verify(ci.token(**{**GOOD, **claims}), rules)


async def test_a_token_that_the_issuers_key_did_not_sign_is_refused(
    ci: FakeIssuer, rules: AccessPolicy, foreign: OidcVerifier
) -> None:
    """No signature, one by another key, one by the public key taken for a shared secret."""
    good = ci.token(**GOOD)
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))

    def signed(key: ECKey | RSAKey, **header: Any) -> str:
        return jwt.encode(header, claims, key, algorithms=["ES256", "RS256"])

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    with_public = f"{part({'alg': 'HS256', 'kid': 'key-1'})}.{body}"
    mac = hmac.digest(ci.key.as_pem(private=False), with_public.encode(), "sha256")
    with_public += f".{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    stranger = ECKey.generate_key("P-256", {"kid": "key-1"})
    for bad in (
        "", "a.b", "a.b.c", f"{head}.{body}.", f"{head}.{body}.{signature[:-4]}AAAA", "é.é.é", "." * 40,
        f"{part({'alg': 'none'})}.{body}.", f"{part([1])}.{body}.{signature}", f"{head}.{part([1])}.{signature}",
        signed(stranger, alg="ES256", kid="key-1"), signed(stranger, alg="ES256", kid="key-2"),
        signed(stranger, alg="ES256", kid="key-1", jwk=stranger.as_dict(private=False)),
        with_public,
        signed(RSAKey.generate_key(2048), alg="RS256", kid="key-1"), "x" * 20_000 + ".a.b", good + ".x",
    ):  # fmt: skip
        with pytest.raises(InvalidToken):
            await foreign.verify(bad, rules)


async def test_a_token_must_name_its_key(ci: FakeIssuer, rules: AccessPolicy, foreign: OidcVerifier) -> None:
    """All issuers do; without it every key would have to be tried."""
    for header in ({}, {"kid": ""}):
        with pytest.raises(InvalidToken, match="names no key"):
            await foreign.verify(ci.token(header, **GOOD), rules)


@pytest.mark.parametrize(
    ("sub", "name"),
    [("a\nb c\x1b[2J", "a?b?c?[2J"), ("é", "?"), ("x" * 300, "x" * 255), ({"a": 1}, ""), (None, "")],
)
async def test_a_subject_cannot_write_in_logs(
    ci: FakeIssuer, rules: AccessPolicy, foreign: OidcVerifier, sub: Any, name: str
) -> None:
    """It contains the name of a branch, which any author can choose."""
    assert (await foreign.verify(ci.token(**GOOD, sub=sub), rules)).name == name


async def test_an_issuer_that_the_policy_drops_is_dropped(
    ci: FakeIssuer, rules: AccessPolicy, foreign: OidcVerifier, tmp_path: Path
) -> None:
    """The policy in force decides, also for keys that are already here."""
    await foreign.verify(ci.token(**GOOD), rules)
    with pytest.raises(InvalidToken):
        await foreign.verify(ci.token(**GOOD), policy(tmp_path, ""))
    moved = policy(tmp_path, POLICY.replace("name: ci", "name: other"))
    assert (await foreign.verify(ci.token(**GOOD), moved)).issuer == "other"
    assert [issuer.name for issuer in foreign._sources] == ["other"]


async def test_keys_in_a_file_are_read_again_when_it_changes(tmp_path: Path) -> None:
    """And the old ones stay while the new file is broken or gone."""
    clock, path = Clock(), tmp_path / "keys.json"
    old, new = FakeIssuer(kid="old"), FakeIssuer(kid="new")
    source = FileKeys(str(path), clock)
    with pytest.raises(KeysUnavailable):
        await source.keys("old")
    for data, kid in ((old.jwks(), "old"), (b"{", "old"), (new.jwks(), "new"), (None, "new")):
        if data is None:
            path.unlink()
        else:
            (tmp_path / "next").write_bytes(data)
            (tmp_path / "next").replace(path)
        clock.now += 1
        assert list((await source.keys(kid)).by_id) == [kid]
    await source.close()


class Remote:
    """An issuer on the network: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Exception] = {}
        self.requested: list[str] = []
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self, url: str, ca: str) -> bytes:
        self.requested.append(url)
        assert self.hold.wait(30)
        answer = self.answers[url]
        if isinstance(answer, Exception):
            raise answer
        return answer


DISCOVERY: Final = f"{ISSUER}/.well-known/openid-configuration"
KEYS: Final = f"{ISSUER}/keys"


def remote(issuer: FakeIssuer) -> Remote:
    found = Remote()
    found.answers = {
        DISCOVERY: json.dumps({"issuer": ISSUER, "jwks_uri": KEYS}).encode(),
        KEYS: issuer.jwks(),
    }
    return found


async def test_keys_are_found_by_discovery_and_kept() -> None:
    """One fetch serves all jobs of an hour."""
    clock, ci = Clock(), FakeIssuer()
    network = remote(ci)
    source = RemoteKeys(Issuer("ci", ISSUER, (AUDIENCE,)), network, clock)
    together = await asyncio.gather(*(source.keys("key-1") for _ in range(5)))
    assert all(list(keys.by_id) == ["key-1"] for keys in together)
    clock.now += 3500
    await source.keys("key-1")
    assert network.requested == [DISCOVERY, KEYS]
    await source.close()


async def test_an_address_of_keys_needs_no_discovery() -> None:
    network = remote(FakeIssuer())
    source = RemoteKeys(Issuer("ci", ISSUER, (AUDIENCE,), KEYS), network, Clock())
    await source.keys("key-1")
    assert network.requested == [KEYS]


async def test_an_unknown_key_is_looked_for_but_not_at_every_forged_token() -> None:
    """A rotation of keys would refuse logins; unknown keys would flood the issuer with requests."""
    clock = Clock()
    network = remote(FakeIssuer(kid="old"))
    source = RemoteKeys(Issuer("ci", ISSUER, (AUDIENCE,), KEYS), network, clock)
    await source.keys("old")
    network.answers[KEYS] = FakeIssuer(kid="new").jwks()
    for _ in range(3):
        assert list((await source.keys("new")).by_id) == ["old"]
    clock.now += 30
    assert list((await source.keys("new")).by_id) == ["new"]
    for _ in range(3):
        await source.keys("forged")
    assert len(network.requested) == 2
    await source.close()


async def test_logins_with_a_known_key_work_while_the_issuer_is_down() -> None:
    """CI systems have maintenance windows; deployments continue meanwhile."""
    clock = Clock()
    network = remote(FakeIssuer())
    source = RemoteKeys(Issuer("ci", ISSUER, (AUDIENCE,), KEYS), network, clock)
    await source.keys("key-1")
    network.answers[KEYS] = OSError("no route to host")
    clock.now += 7200
    network.hold.clear()
    # Old keys are used while newer ones are looked for.
    assert (await source.keys("key-1")).by_id
    network.hold.set()
    assert source._fetching is not None
    await source._fetching
    clock.now += 7200
    assert (await source.keys("key-1")).by_id
    await source.close()


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        (DISCOVERY, OSError("down")), (DISCOVERY, b"{"), (DISCOVERY, b"[]"), (KEYS, b"{}"), (KEYS, b"[]"),
        (DISCOVERY, json.dumps({"issuer": "https://evil.example", "jwks_uri": KEYS}).encode()),
        (DISCOVERY, json.dumps({"issuer": ISSUER}).encode()),
        (DISCOVERY, json.dumps({"issuer": ISSUER, "jwks_uri": "http://ci.example/keys"}).encode()),
        (DISCOVERY, json.dumps({"issuer": ISSUER, "jwks_uri": "file:///etc/passwd"}).encode()),
        (KEYS, b'{"keys": []}'), (KEYS, b'{"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "X"}, 5]}'),
    ],
)  # fmt: skip
async def test_without_keys_logins_are_refused_and_the_fetch_is_retried(
    url: str, answer: bytes | Exception
) -> None:
    """A shared secret in a public key set would let anyone sign tokens."""
    clock, network = Clock(), remote(FakeIssuer())
    right = network.answers[url]
    network.answers[url] = answer
    source = RemoteKeys(Issuer("ci", ISSUER, (AUDIENCE,)), network, clock)
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await source.keys("key-1")
    assert len(network.requested) <= 2, "not at every request"
    network.answers[url] = right
    clock.now += 5
    assert (await source.keys("key-1")).by_id
    await source.close()


async def test_an_issuer_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients would wait with us, and their pipelines with them."""
    monkeypatch.setattr(jwks, "_TOTAL_TIMEOUT_S", 0.01)
    network = remote(FakeIssuer())
    network.hold.clear()
    source = RemoteKeys(Issuer("ci", ISSUER, (AUDIENCE,), KEYS), network, Clock())
    with pytest.raises(KeysUnavailable):
        await source.keys("key-1")
    network.hold.set()
    await source.close()


def test_where_keys_come_from(tmp_path: Path) -> None:
    assert isinstance(key_source(Issuer("ci", ISSUER, (), str(tmp_path / "x")), Clock()), FileKeys)
    for keys in ("", KEYS):
        assert isinstance(key_source(Issuer("ci", ISSUER, (), keys), Clock()), RemoteKeys)


@contextmanager
def web(answer: Callable[[str], tuple[int, dict[str, str], bytes]], ca: trustme.CA | None = None) -> Iterator[str]:
    """A web server on loopback, with TLS if there is an authority."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if ca is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"{'http' if ca is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_answer_is_fetched_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirections could lead anywhere, and an endless answer would fill the memory."""
    monkeypatch.setattr(jwks, "_SIZE_LIMIT_BYTES", 10)
    answers = {"/good": (200, {}, b"0123456789"), "/long": (200, {}, b"0123456789x"), "/none": (404, {}, b""),
               "/moved": (302, {"location": "/good"}, b"")}  # fmt: skip
    with web(lambda path: answers[path]) as url:
        assert fetch(f"{url}/good", "") == b"0123456789"
        for path, reply in (
            ("/long", "more than 10 bytes"),
            ("/none", "answered 404"),
            ("/moved", "answered 302"),
        ):
            with pytest.raises(ValueError, match=reply):
                fetch(url + path, "")
    for bad in ("file:///etc/passwd", "ftp://x/y", ""):
        with pytest.raises(ValueError, match="expected an http or https URL"):
            fetch(bad, "")


@pytest.mark.parametrize("reply", [b"garbage\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"])
def test_what_is_no_http_is_an_ordinary_failure(reply: bytes) -> None:
    """A broken connection of a load balancer would be a 500."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        if reply.startswith(b"HTTP"):
            # Cut off without a word by the standard library; it is no JSON then, which its reader sees.
            assert fetch(f"http://127.0.0.1:{server.getsockname()[1]}/", "") == b"ab"
        else:
            with pytest.raises((OSError, ValueError)):
                fetch(f"http://127.0.0.1:{server.getsockname()[1]}/", "")
        thread.join()


def test_an_answer_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for ever would be missing for other requests."""
    monkeypatch.setattr(jwks, "_TOTAL_TIMEOUT_S", -1.0)
    with web(lambda _: (200, {}, b"{}")) as url, pytest.raises(TimeoutError, match="to answer"):
        fetch(url, "")


def test_an_issuer_with_an_authority_of_its_own_is_believed_by_that_alone(tmp_path: Path) -> None:
    """A cluster's API server has a certificate that no browser knows."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with web(lambda _: (200, {}, b"{}"), ca) as url:
        assert fetch(url, str(tmp_path / "ca.pem")) == b"{}"
        for other in ("", str(tmp_path / "other.pem")):
            with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
                fetch(url, other)
