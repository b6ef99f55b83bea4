"""Redirects, time limits, TLS, proxies and rate limits."""

from __future__ import annotations

import asyncio
import base64
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.ports import free_port
from tests.upstream.faulty import FaultyRegistry
from tests.upstream.faulty_http import raw_server

from moorage.startup import StartupError
from moorage.types import parse_repo_name, parse_tag
from moorage.upstream.answers import retry_after_s
from moorage.upstream.client import RegistryClient
from moorage.upstream.credentials import StaticCredentials
from moorage.upstream.errors import UpstreamDenied, UpstreamInvalid, UpstreamRateLimited, UpstreamUnreachable
from moorage.upstream.reference import parse_endpoint
from moorage.upstream.transport import ClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAME = parse_repo_name("library/app")
TAG = parse_tag("1")
PAIR = ("user", "correct horse battery")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(
        parse_endpoint(url), StaticCredentials(*PAIR), ClientOptions(**{"read_timeout_s": 5, **options})
    )
    try:
        yield client
    finally:
        await client.close()


async def test_blobs_are_redirected_without_credentials() -> None:
    """Object stores refuse a request with two kinds of credentials, and must not see these."""
    async with FaultyRegistry(basic=PAIR) as upstream, FaultyRegistry() as store:
        digest = upstream.add_blob(NAME, b"content")
        store.add_blob(NAME, b"content")
        upstream.redirect_blobs = store.url
        async with connected(upstream.url) as client, client.open_blob(NAME, digest, start=3) as blob:
            assert (blob.size, blob.start) == (7, 3)
            assert b"".join([chunk async for chunk in blob]) == b"tent"
        (request,) = store.received
        assert "authorization" not in request.headers
        assert request.headers["range"] == "bytes=3-"
        assert request.query == {"X-Amz-Signature": "signed"}


async def test_a_redirect_within_the_registry_keeps_credentials() -> None:
    """The same scheme, host and port."""
    async with FaultyRegistry(basic=PAIR) as upstream:
        upstream.add_image(NAME, TAG)
        upstream.fail("/other/", status=308, headers={"Location": f"/v2/{NAME}/manifests/{TAG}"})
        async with connected(upstream.url) as client:
            await client.ping()
            assert (await client.get_manifest(parse_repo_name("other/app"), TAG)).data


async def test_a_challenge_of_another_host_gets_no_credentials() -> None:
    """The 401 of an object store is an error, not a login."""
    async with FaultyRegistry(basic=PAIR) as upstream, FaultyRegistry(basic=PAIR) as other:
        digest = upstream.add_blob(NAME, b"content")
        upstream.redirect_blobs = other.url
        async with connected(upstream.url) as client:
            with pytest.raises(UpstreamDenied, match=f".redirected to {other.host}.: 401: UNAUTHORIZED"):
                async with client.open_blob(NAME, digest):
                    pass
        assert [request.headers.get("authorization") for request in other.received] == [None]


async def test_a_way_back_from_another_host_gets_no_credentials() -> None:
    """The other host would choose what is requested with them."""
    async with FaultyRegistry(basic=PAIR) as upstream, FaultyRegistry() as other:
        upstream.add_image(NAME, TAG)
        async with connected(upstream.url) as client:
            await client.ping()
            upstream.fail("/manifests/1", status=307, headers={"Location": f"{other.url}/v2/x"}, times=1)
            other.fail("/v2/x", status=307, headers={"Location": f"{upstream.url}/v2/{NAME}/manifests/{TAG}"})
            upstream.received.clear()
            with pytest.raises(UpstreamDenied):
                await client.get_manifest(NAME, TAG)
        assert ["authorization" in request.headers for request in upstream.received[:2]] == [True, False]


async def test_a_redirect_loop_ends() -> None:
    """After five."""
    async with FaultyRegistry() as upstream:
        upstream.fail("/v2/", status=302, headers={"Location": "/v2/"})
        async with connected(upstream.url) as client:
            with pytest.raises(UpstreamInvalid, match="more than 5 redirects, the last one to 127"):
                await client.ping()
        assert upstream.requests["GET", "/v2/"] == 6


@pytest.mark.parametrize("location", [None, "", "ftp://host/", "http://[", "file:///etc/passwd"])
async def test_a_redirect_to_nowhere(location: str | None) -> None:
    """Only http and https, with a host."""
    async with FaultyRegistry() as upstream:
        upstream.fail("/v2/", status=302, headers={} if location is None else {"Location": location})
        async with connected(upstream.url) as client:
            with pytest.raises(UpstreamInvalid, match="302 without a usable Location"):
                await client.ping()


async def test_a_redirect_to_plain_http_is_refused(tls: ssl.SSLContext, ca_file: Path) -> None:
    """Anything on the way could replace what comes from there."""
    async with FaultyRegistry(tls=tls) as upstream, FaultyRegistry() as plain:
        digest = upstream.add_blob(NAME, b"content")
        upstream.redirect_blobs = plain.url
        async with connected(upstream.url, ca_file=ca_file) as client:
            with pytest.raises(UpstreamInvalid, match=f"redirect from https to http .to {plain.host}."):
                async with client.open_blob(NAME, digest):
                    pass
        assert not plain.received


async def test_a_token_server_without_tls_gets_nothing(tls: ssl.SSLContext, ca_file: Path) -> None:
    """The password of a registry that is reached by TLS would be readable on the way."""
    async with FaultyRegistry() as plain:
        realm = f"http://127.0.0.1:{plain.port}/token"
        async with (
            FaultyRegistry(tls=tls, bearer=PAIR, realm=realm) as upstream,
            connected(upstream.url, ca_file=ca_file) as client,
        ):
            with pytest.raises(UpstreamDenied, match="without TLS"):
                await client.ping()
        assert not plain.received


async def test_an_upload_to_plain_http_is_refused(tls: ssl.SSLContext, ca_file: Path) -> None:
    """A registry behind a proxy that does not know of its TLS; the message has the usual remedies."""
    async with FaultyRegistry(tls=tls) as upstream:
        upstream.fail("/uploads/", status=202, headers={"Location": f"http://{upstream.host}/v2/x"})
        async with connected(upstream.url, ca_file=ca_file) as client:
            with pytest.raises(UpstreamInvalid, match="X-Forwarded-Proto"):
                await client.upload_blob(NAME, upstream.add_blob(NAME, b"x"), 1, once(b"x"))


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_certificate_of_an_unknown_authority(tls: ssl.SSLContext, ca_file: Path) -> None:
    """Refused, with the setting that trusts it; accepted with its file, or without verification."""
    async with FaultyRegistry(tls=tls) as upstream:
        async with connected(upstream.url) as client:
            with pytest.raises(
                UpstreamUnreachable, match="the certificate is not trusted: unable to get local issuer"
            ):
                await client.ping()
        async with connected(upstream.url, ca_file=ca_file) as client:
            await client.ping()
        async with connected(upstream.url, insecure=True) as client:
            await client.ping()


async def test_a_certificate_of_another_host(authority: trustme.CA, ca_file: Path) -> None:
    """The reason names the host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example.com").configure_cert(context)
    async with FaultyRegistry(tls=context) as upstream, connected(upstream.url, ca_file=ca_file) as client:
        with pytest.raises(UpstreamUnreachable, match=r"not trusted: IP address mismatch.*127\.0\.0\.1"):
            await client.ping()


async def test_tls_with_a_server_of_plain_http() -> None:
    """The usual mistake of a test registry."""
    async with (
        raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as host,
        connected(f"https://{host}") as client,
    ):
        with pytest.raises(UpstreamUnreachable, match=r"no TLS connection.*is it a registry of plain HTTP"):
            await client.ping()


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_file_of_authorities_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    """Found when the client is made, not at the first request."""
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError, match=r"ca\.pem is not a readable file of certificates"):
        RegistryClient(parse_endpoint("host"), options=ClientOptions(ca_file=path))


async def test_a_refused_connection() -> None:
    """Host and reason."""
    port = free_port()
    async with connected(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(UpstreamUnreachable, match=rf"^127\.0\.0\.1:{port}: GET /v2/: Connection refused$"):
            await client.ping()


async def test_an_unknown_host() -> None:
    """`.invalid` never exists (RFC 2606)."""
    async with connected("http://registry.invalid") as client:
        with pytest.raises(UpstreamUnreachable, match=r"^registry\.invalid: GET /v2/: the host name cannot be"):
            await client.ping()


async def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """getaddrinfo(3) may take minutes."""

    async def silent(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
    async with connected("http://registry.invalid", connect_timeout_s=0.05) as client:
        with pytest.raises(UpstreamUnreachable, match=r"no answer from DNS within 0\.05 s"):
            await client.ping()


async def test_a_connection_that_is_not_accepted() -> None:
    """TLS with a server that never answers the first message."""
    async with raw_server(None) as host, connected(f"https://{host}", connect_timeout_s=0.05) as client:
        with pytest.raises(UpstreamUnreachable, match=r"no connection within 0\.05 s"):
            await client.ping()


async def test_a_full_pool_is_not_waited_for_without_end() -> None:
    """A caller that holds every connection and asks for one more would wait for itself."""
    async with FaultyRegistry() as upstream:
        digest = upstream.add_blob(NAME, bytes(8 << 20))
        async with (
            connected(upstream.url, connections=1, connect_timeout_s=0.05, read_timeout_s=0.05) as client,
            client.open_blob(NAME, digest),
        ):
            with pytest.raises(UpstreamUnreachable, match="no connection within"):
                await client.ping()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
async def test_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the password in its URL; not for the hosts of NO_PROXY, nor for this machine."""
    for other in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    async with FaultyRegistry() as proxy:
        monkeypatch.setenv(name, f"http://{PAIR[0]}:proxy-password@{proxy.host}")
        proxy.fail("http://registry.invalid/v2/", status=200, body=b"{}")
        async with connected("http://registry.invalid") as client:
            await client.ping()
        encoded = base64.b64encode(f"{PAIR[0]}:proxy-password".encode()).decode()
        assert proxy.received[0].headers["proxy-authorization"] == f"Basic {encoded}"
        monkeypatch.setenv("NO_PROXY", "example.com,registry.invalid")
        async with connected("http://registry.invalid") as client:
            with pytest.raises(UpstreamUnreachable, match="cannot be resolved"):
                await client.ping()
        async with FaultyRegistry() as upstream, connected(upstream.url) as client:
            await client.ping()
        assert len(proxy.received) == 1


async def test_a_proxy_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is not one of the registry, and contains no password of the proxy."""
    for other in ("http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    proxy = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("HTTP_PROXY", f"http://user:proxy-password@{proxy}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:proxy-password@{proxy}")
    for scheme in ("http", "https"):
        async with connected(f"{scheme}://registry.invalid") as client:
            with pytest.raises(
                UpstreamUnreachable, match=f"the HTTP proxy {proxy} cannot be reached: Conn"
            ) as caught:
                await client.ping()
            assert "proxy-password" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://user:proxy-password@host:1080", "http://[proxy-password", "http://"])
async def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """SOCKS, or no address at all; the address may contain a password and is not shown."""
    for other in ("http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    async with connected("http://registry.invalid") as client:
        with pytest.raises(
            UpstreamUnreachable, match="the HTTP proxy of the environment cannot be used"
        ) as caught:
            await client.ping()
        assert "proxy-password" not in str(caught.value)


async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection through the proxy, which wants a password."""
    for other in ("https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    async with raw_server(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as host:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{host}")
        async with connected("https://registry.invalid") as client:
            with pytest.raises(UpstreamUnreachable, match="the HTTP proxy refused the connection: 407"):
                await client.ping()


async def test_a_signed_url_may_be_long() -> None:
    """Object stores put tokens of several kilobytes into the address."""
    async with FaultyRegistry() as upstream:
        upstream.fail("/v2/", status=302, headers={"Location": f"/v2/?{'x' * 20_000}"}, times=1)
        async with connected(upstream.url) as client:
            await client.ping()
            assert len(upstream.received[-1].target) > 20_000
            upstream.fail("/v2/", headers={"X": "x" * 100_000})
            with pytest.raises(UpstreamInvalid, match="not valid HTTP"):
                await client.ping()


async def test_a_netrc_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials are those that the settings name."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    async with FaultyRegistry() as upstream, connected(upstream.url) as client:
        await client.ping()
        assert "authorization" not in upstream.received[0].headers
        assert "cookie" not in upstream.received[0].headers


async def test_a_rate_limit_with_the_limits_of_docker_hub() -> None:
    """Seconds to wait, and the limits in the message."""
    async with FaultyRegistry() as upstream:
        headers = {"Retry-After": "120", "RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
        upstream.fail("/manifests/", status=429, headers=headers)
        async with connected(upstream.url) as client:
            with pytest.raises(UpstreamRateLimited) as caught:
                await client.get_manifest(NAME, TAG)
        assert caught.value.retry_after_s == 120
        assert caught.value.words == (
            "as instructed; ratelimit-limit: 100;w=21600; ratelimit-remaining: 0;w=21600"
        )


def test_the_time_of_a_retry() -> None:
    """A number of seconds, or a date, which may have passed."""
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def waiting(text: str) -> float | None:
        return retry_after_s({"Retry-After": text}, now.timestamp())

    assert waiting("0") == 0
    assert waiting(" 30 ") == 30
    assert waiting(format_datetime(now + timedelta(seconds=90), usegmt=True)) == 90
    assert waiting(format_datetime(now - timedelta(days=1), usegmt=True)) == 0
    assert [waiting(text) for text in ("", "soon", "-5", "1.5", "\u0663")] == [None] * 5
    assert retry_after_s({}, 0) is None
