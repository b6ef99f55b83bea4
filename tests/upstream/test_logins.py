"""Logins to registries: Basic, Bearer tokens, and where credentials must not go."""

from __future__ import annotations

import asyncio
import re
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.upstream.faulty import FaultyRegistry

from moorage.types import parse_repo_name, parse_tag
from moorage.upstream.client import RegistryClient
from moorage.upstream.credentials import StaticCredentials, UpstreamCredentials
from moorage.upstream.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRateLimited,
    UpstreamUnreachable,
)
from moorage.upstream.reference import parse_endpoint
from moorage.upstream.tokens import is_trusted_realm
from moorage.upstream.transport import ClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.upstream.credentials import CredentialSource

NAME = parse_repo_name("library/app")
TAG = parse_tag("1")
USER, PASSWORD = PAIR = ("user", "correct horse battery")
RIGHT = StaticCredentials(*PAIR)
WRONG = StaticCredentials("user", "wrong-password-of-test")


@asynccontextmanager
async def started(
    credentials: CredentialSource | None = None, *, realms: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[tuple[FaultyRegistry, RegistryClient]]:
    async with FaultyRegistry(**options) as upstream:
        upstream.add_image(NAME, TAG)
        client = RegistryClient(
            parse_endpoint(upstream.url), credentials, ClientOptions(allowed_realms=realms, read_timeout_s=5)
        )
        try:
            yield upstream, client
        finally:
            await client.close()


class Changing:
    """Credentials that are renewed each time the registry refuses them."""

    def __init__(self, *passwords: str) -> None:
        self.passwords = list(passwords)
        self.asked = 0

    async def get(self, host: str) -> UpstreamCredentials | None:
        self.asked += 1
        return UpstreamCredentials(USER, self.passwords[0]) if self.passwords else None

    def refused(self, host: str) -> None:
        if len(self.passwords) > 1:
            del self.passwords[0]


async def test_basic_is_asked_for_once() -> None:
    """Later requests bring the password from the start."""
    async with started(RIGHT, basic=PAIR) as (upstream, client):
        await client.ping()
        await client.get_manifest(NAME, TAG)
        assert [request.path for request in upstream.received if "authorization" not in request.headers] == [
            "/v2/"
        ]
        assert len(upstream.received) == 3


async def test_basic_without_credentials() -> None:
    """The cause is a missing setting, not a wrong password."""
    async with started(basic=PAIR) as (_, client):
        with pytest.raises(UpstreamDenied, match="asks for a user and password, and none are configured"):
            await client.ping()


async def test_a_wrong_password_is_sent_once() -> None:
    """Registries lock accounts after a few attempts."""
    async with started(WRONG, basic=PAIR) as (upstream, client):
        with pytest.raises(UpstreamDenied, match="401: UNAUTHORIZED: authentication required"):
            await client.ping()
        assert upstream.requests["GET", "/v2/"] == 2
        with pytest.raises(UpstreamDenied):
            await client.ping()
        assert upstream.requests["GET", "/v2/"] == 3


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_a_password_that_was_rotated_is_obtained_anew(kind: str) -> None:
    """A cached password of a helper, after the registry refuses it."""
    source = Changing("old", PASSWORD)
    async with started(source, **{kind: PAIR}) as (_, client):
        if kind == "basic":
            with pytest.raises(UpstreamDenied):
                await client.ping()
        await client.ping()
        assert source.passwords == [PASSWORD]


async def test_a_token_is_requested_once_per_scope() -> None:
    """Also by several requests at once; each scope names its repository."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        await asyncio.gather(*(client.get_manifest(NAME, TAG) for _ in range(5)))
        await client.get_manifest(NAME, TAG)
        assert upstream.requests["GET", "/token"] == 1
        assert list(upstream.tokens.values()) == [f"service=faulty&scope=repository:{NAME}:pull&account=user"]
        await client.put_manifest(NAME, parse_tag("2"), "text/plain", b"{}")
        assert list(upstream.tokens.values())[1:] == [
            f"service=faulty&scope=repository:{NAME}:pull,push&account=user"
        ]


async def test_a_token_needs_no_second_connection() -> None:
    """Else as many first requests as there are connections would wait for each other."""
    async with FaultyRegistry(bearer=PAIR) as upstream:
        upstream.add_image(NAME, TAG)
        client = RegistryClient(
            parse_endpoint(upstream.url),
            RIGHT,
            ClientOptions(connections=1, connect_timeout_s=1, read_timeout_s=1),
        )
        try:
            await asyncio.gather(*(client.get_manifest(NAME, TAG) for _ in range(5)))
            upstream.tokens.clear()
            upstream.fail("/token", status=200, body=b'{"token": "of-another-registry"}')
            with pytest.raises(UpstreamDenied, match="401: UNAUTHORIZED: authentication required"):
                await client.get_manifest(NAME, TAG)
        finally:
            await client.close()


async def test_an_anonymous_token() -> None:
    """Public registries ask everyone for a token."""
    async with started(bearer=PAIR, anonymous=True) as (upstream, client):
        await client.get_manifest(NAME, TAG)
        assert upstream.requests["GET", "/token"] == 1


async def test_a_denied_anonymous_request_names_the_remedy() -> None:
    """Docker Hub answers 401 for what is private and for what does not exist."""
    async with started(bearer=PAIR, anonymous=True) as (upstream, client):
        upstream.fail(
            "/manifests/", status=401, headers={"WWW-Authenticate": f'Bearer realm="{upstream.url}/token"'}
        )
        with pytest.raises(UpstreamDenied, match="no credentials are configured for this registry"):
            await client.get_manifest(NAME, TAG)
        assert upstream.requests["GET", f"/v2/{NAME}/manifests/{TAG}"] == 2


async def test_an_identity_token_is_exchanged_by_post() -> None:
    """It is in the body, and not in a URL that servers log."""

    class Identity:
        async def get(self, host: str) -> UpstreamCredentials | None:
            return UpstreamCredentials("", identity_token=PASSWORD)

        def refused(self, host: str) -> None:
            pass

    async with started(Identity(), bearer=PAIR) as (upstream, client):
        await client.get_manifest(NAME, TAG)
        (request,) = [request for request in upstream.received if request.path == "/token"]
        assert (request.method, request.query) == ("POST", {})
        assert "authorization" not in request.headers
        assert b"grant_type=refresh_token" in request.body


async def test_a_token_that_the_registry_forgot_is_renewed_once() -> None:
    """A registry that was restarted with another key."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        await client.get_manifest(NAME, TAG)
        upstream.tokens.clear()
        await client.get_manifest(NAME, TAG)
        assert upstream.requests["GET", "/token"] == 2


async def test_a_401_is_not_answered_forever() -> None:
    """The registry refuses every token: two requests, then the error."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        realm = {"WWW-Authenticate": f'Bearer realm="{upstream.url}/token",service="faulty"'}
        upstream.fail("/v2/", status=401, headers=realm)
        with pytest.raises(UpstreamDenied, match="401: FAULT"):
            await client.ping()
        assert upstream.requests["GET", "/v2/"] == 2


async def test_another_token_server_is_used_once_the_registry_names_it() -> None:
    """A realm that fails is forgotten, or the client would never ask the registry again."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        bad = {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/token"'}
        upstream.fail("/v2/", status=401, headers=bad, times=1)
        with pytest.raises(
            UpstreamUnreachable, match=r"token server 127\.0\.0\.1:1: GET /token: Connection refused"
        ):
            await client.ping()
        await client.ping()
        upstream.fail("/token", status=500, times=1)
        with pytest.raises(UpstreamUnreachable):
            await client.get_manifest(NAME, TAG)
        before = len([request for request in upstream.received if "authorization" not in request.headers])
        await client.get_manifest(NAME, TAG)
        assert (
            len([request for request in upstream.received if "authorization" not in request.headers]) == before + 1
        )


@pytest.mark.parametrize("header", ["", "Negotiate", "Bearer service=x", 'Digest realm="x"'])
async def test_a_challenge_that_cannot_be_answered(header: str) -> None:
    """The registry's own words are the reason."""
    async with started(RIGHT, basic=PAIR) as (upstream, client):
        upstream.fail("/v2/", status=401, headers={"WWW-Authenticate": header})
        with pytest.raises(UpstreamDenied, match="401: FAULT: as instructed"):
            await client.ping()
        assert upstream.requests["GET", "/v2/"] == 1


async def test_a_wider_scope_of_the_challenge_is_requested() -> None:
    """Registries behind others name the scopes that they need in addition."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        realm = f'Bearer realm="{upstream.url}/token",service="faulty",scope="repository:other:pull"'
        upstream.fail("/manifests/", status=401, headers={"WWW-Authenticate": realm}, times=1)
        await client.get_manifest(NAME, TAG)
        await client.get_manifest(NAME, TAG)
        (query,) = upstream.tokens.values()
        assert query == f"service=faulty&scope=repository:{NAME}:pull&scope=repository:other:pull&account=user"


async def test_a_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little before the time that its server named, which counts from the request."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        now = [0.0]
        monkeypatch.setattr(client._session._authorizer._tokens, "_clock", lambda: now[0])
        monkeypatch.setattr(client._session._authorizer._tokens._cache, "_clock", lambda: now[0])
        for lifetime_s, kept_s in ((300, 289), (None, 53), (-5, 53), (20, 17)):
            upstream.token_lifetime_s = lifetime_s
            now[0] += 1000
            before = upstream.requests["GET", "/token"]
            await client.get_manifest(NAME, TAG)
            assert upstream.requests["GET", "/token"] == before + 1
            now[0] += kept_s
            await client.get_manifest(NAME, TAG)
            assert upstream.requests["GET", "/token"] == before + 1
            now[0] += 12
            await client.get_manifest(NAME, TAG)
            assert upstream.requests["GET", "/token"] == before + 2


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ({"status": 500}, UpstreamUnreachable, "/token: 500: as instructed|/token: 500: FAULT: as instructed"),
        ({"status": 429, "headers": {"Retry-After": "7"}}, UpstreamRateLimited, "429"),
        ({"status": 200, "body": b"<html>"}, UpstreamInvalid, "not a token response: not a JSON object"),
        ({"status": 200, "body": b"{}"}, UpstreamInvalid, "not a token response: it has no token"),
        ({"status": 200, "body": b'{"token": 5}'}, UpstreamInvalid, "not a token response: it has no token"),
        ({"status": 200, "body": b'{"token": "a\\nb"}'}, UpstreamInvalid, "cannot be sent in a header"),
        ({"status": 200, "body": b"x" * (2 << 20)}, UpstreamInvalid, "over 1048576 bytes"),
        ({"status": 400, "body": b'{"details": "incorrect username"}'}, UpstreamError, "400: incorrect username"),
        ({"disconnect": True}, UpstreamUnreachable, "closed before a response came"),
    ],
)
async def test_a_token_server_that_fails(fault: dict[str, Any], kind: type[UpstreamError], reason: str) -> None:
    """The error is that of the token server, and names it."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        upstream.fail("/token", **fault)
        with pytest.raises(kind, match=reason) as caught:
            await client.ping()
        assert "/token" in str(caught.value)


async def test_a_wrong_password_of_a_token_server() -> None:
    """Sent once."""
    async with started(WRONG, bearer=PAIR) as (upstream, client):
        with pytest.raises(UpstreamDenied, match=r"token server .*: 401: UNAUTHORIZED: wrong user or password"):
            await client.ping()
        assert upstream.requests["GET", "/token"] == 1


async def test_a_token_server_of_another_domain_gets_nothing() -> None:
    """Not even an anonymous request: its answer would hide the cause."""
    async with (
        FaultyRegistry(bearer=PAIR) as other,
        started(RIGHT, bearer=PAIR, realm=f"http://localhost:{other.port}/token") as (_, client),
    ):
        host = f"localhost:{other.port}"
        with pytest.raises(
            UpstreamDenied,
            match=rf"token server {host} belongs to another domain.*add {host} to the setting realms",
        ):
            await client.ping()
        assert not other.received


async def test_a_token_server_that_the_settings_allow() -> None:
    """With the host of its realm in the setting."""
    async with FaultyRegistry(bearer=PAIR) as other:
        realm = f"http://localhost:{other.port}/token"
        options = {"bearer": PAIR, "realm": realm}
        async with started(RIGHT, realms=(f"localhost:{other.port}",), **options) as (upstream, client):
            upstream.tokens = other.tokens
            await client.ping()
        async with started(RIGHT, realms=("localhost",), **options) as (upstream, client):
            upstream.tokens = other.tokens
            await client.ping()


@pytest.mark.parametrize("realm", ["ftp://127.0.0.1/token", "/token", "http://", "http://[::1", ""])
async def test_a_realm_that_is_no_url(realm: str) -> None:
    """Only http and https."""
    async with started(RIGHT, bearer=PAIR) as (upstream, client):
        upstream.fail("/v2/", status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}"'})
        with pytest.raises(UpstreamInvalid, match="not a URL"):
            await client.ping()


@pytest.mark.parametrize(
    ("realm", "registry", "allowed", "trusted"),
    [
        ("registry.example.com", "registry.example.com", (), True),
        ("auth.docker.io", "registry-1.docker.io", (), True),
        ("gitlab.com", "registry.gitlab.com", (), True),
        ("AUTH.example.com", "registry.example.com", (), True),
        ("auth.example.com:8443", "registry.example.com:5000", (), True),
        ("auth.example.org", "registry.example.com", (), False),
        ("auth.other.co.uk", "registry.example.co.uk", (), False),
        ("auth.example.co.uk", "registry.example.co.uk", (), True),
        ("example.com.evil.org", "registry.example.com", (), False),
        ("evilexample.com", "example.com", (), False),
        ("10.0.0.1", "11.0.0.1", (), False),
        ("10.0.0.1:81", "10.0.0.1:80", (), True),
        ("[::1]:81", "[::1]:80", (), True),
        ("[::2]:81", "[::1]:80", (), False),
        ("registry", "auth", (), False),
        ("com", "example.com", (), False),
        ("co.uk", "example.co.uk", (), False),
        ("auth.example.org", "registry.example.com", ("auth.example.org",), True),
        ("auth.example.org:444", "registry.example.com", ("auth.example.org",), True),
        ("auth.example.org:444", "registry.example.com", ("auth.example.org:443",), False),
    ],
)  # fmt: skip
def test_token_servers_that_get_credentials(
    realm: str, registry: str, allowed: tuple[str, ...], trusted: bool
) -> None:
    """The same host, the same registrable domain, or an allowed one."""
    assert is_trusted_realm(realm, registry, frozenset(allowed)) is trusted


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_no_secret_is_in_an_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A registry that repeats what it received, in every error there is."""
    import base64

    async with started(RIGHT, **{kind: PAIR}) as (upstream, client):
        await client.get_manifest(NAME, TAG)
        secrets = {PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), *upstream.tokens}
        words = " ".join(f"Authorization: Bearer {secret} and {secret}" for secret in secrets)
        signed = "http://u:very-secret@127.0.0.1:1/blob?X-Amz-Signature=very-secret"
        errors: list[str] = []
        faults: list[dict[str, Any]] = [
            *({"status": status, "body": words.encode()} for status in (400, 403, 404, 429, 500)),
            {"status": 401, "body": words.encode(), "headers": {"WWW-Authenticate": f'Bearer realm="{signed}"'}},
            {"status": 307, "headers": {"Location": signed}},
            {"disconnect": True},
        ]
        for fault in faults:
            upstream.recover()
            upstream.fail("/v2/", **fault)
            with pytest.raises(UpstreamError) as caught:
                await client.get_manifest(NAME, TAG)
            errors += [str(caught.value), repr(caught.value), caught.value.words]
            errors += traceback.format_exception(caught.value)
        upstream.recover()
        received = " ".join(secrets - set(upstream.tokens))
        upstream.tokens.clear()
        upstream.fail("/token", status=403, body=received.encode())
        if kind == "bearer":
            with pytest.raises(UpstreamDenied) as denied:
                await client.get_manifest(NAME, TAG)
            errors += [str(denied.value), denied.value.words]
        for secret in (*secrets, "very-secret"):
            assert not [text for text in errors if secret in text]
            assert secret not in caplog.text
        assert re.search("500: Authorization: Bearer", "\n".join(errors))
