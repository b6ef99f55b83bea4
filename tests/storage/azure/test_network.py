"""The Azure driver's way to the service: private authorities, proxies, and identities instead of keys.

azurite speaks HTTPS with a certificate of an authority of our own, and takes the tokens of an identity provider
that this module is; it checks whom a token is for, not who signed it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import ssl
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trustme
from azure.storage.blob import _shared_access_signature as signatures
from tests.azure import ACCOUNT, ACCOUNT_KEY, Container, a_container, start_azurite

from moorage.storage.azure.connection import AzureConnection
from moorage.storage.azure.options import AzureOptions
from moorage.storage.azure.store import AzureStore
from moorage.storage.azure.uploads import AzureUploads
from moorage.storage.driver import Key, SignedUrl, StorageUnavailable
from moorage.storage.object_store.driver import ObjectDriver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

KEY = Key("docker/registry/v2/blobs/sha256/ab/abcd/data")
HOME = Key("docker/registry/v2/repositories/a/_uploads/0199a3c4-0000-7000-8000-000000000001")


@dataclass
class Provider:
    """An identity provider that gives every client a token, and records the requests."""

    port: int = 0
    requested: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Private:
    """azurite behind a private certificate."""

    url: str
    ca_file: str
    provider: Provider

    def driver(self, container: str, **other: Any) -> ObjectDriver:
        options = AzureOptions(
            **{
                "accountname": ACCOUNT,
                "container": container,
                "serviceurl": self.url,
                "retry_delay": 0.001,
                **other,
            }
        )
        layouts = AzureStore(AzureConnection(options))
        return ObjectDriver(layouts, AzureUploads(layouts))


def token() -> str:
    """As azurite checks it: issuer, audience and times."""
    now = int(time.time())
    claims = {
        "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/the-tenant/",
        "nbf": now - 60, "iat": now - 60, "exp": now + 3600, "oid": "an-object", "tid": "the-tenant", "sub": "me",
    }  # fmt: skip
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), "signature"])


@contextmanager
def a_provider(context: ssl.SSLContext) -> Iterator[Provider]:
    found = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the client closes the connection: see tests/s3.py, `over_tls`

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            found.requested.append((self.path, dict(parse_qsl(body))))
            self.answer({"token_type": "Bearer", "expires_in": 3600, "access_token": token()})

        def answer(self, output: dict[str, object]) -> None:
            text = json.dumps(output).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Discard the line."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    folder = tmp_path_factory.mktemp("azurite")
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "cert.pem"), append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    tls = ("--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem"), "--oauth", "basic")
    process, port = start_azurite(folder, *tls, trust=str(folder / "ca.pem"))
    try:
        with a_provider(context) as provider:
            yield Private(f"https://127.0.0.1:{port}/{ACCOUNT}", str(folder / "ca.pem"), provider)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


@pytest.fixture
def name(private: Private, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new container; and nothing of this host's environment."""
    from azure.storage.blob import BlobServiceClient

    for variable in list(os.environ):
        if variable.startswith(("AZURE_", "SSL_CERT_", "IDENTITY_", "MSI_")) or variable.upper().endswith(
            "_PROXY"
        ):
            monkeypatch.delenv(variable)
    # The service's version that azurite knows signs two lines less than the library's, for headers and queries.
    sign: Callable[[str, str], str] = vars(signatures)["sign_string"]

    def sign_for_azurite(key: str, text: str) -> str:
        lines = text.split("\n")
        return sign(key, "\n".join(lines[:21] + lines[23:]) if len(lines) > 25 else text)

    monkeypatch.setattr(signatures, "sign_string", sign_for_azurite)
    found = f"images-{time.time_ns()}"
    with BlobServiceClient(
        private.url,
        {"account_name": ACCOUNT, "account_key": ACCOUNT_KEY},
        connection_verify=private.ca_file,
    ) as service:
        service.create_container(found)
    return found


async def use(driver: ObjectDriver, private: Private) -> None:
    """A push, its publication by the service, and a redirect that works without us."""
    try:
        state = await driver.uploads.begin(HOME)
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"x" * 2_000_000])
            state = await appender.checkpoint()
        await driver.uploads.publish(HOME, state, KEY)
        await driver.uploads.discard(HOME)
        assert (await driver.stat(KEY)).size == 2_000_000
        handed = await driver.handover(KEY, method="GET", expires_s=60)
    finally:
        await driver.close()
    assert isinstance(handed, SignedUrl)
    assert len(await asyncio.to_thread(fetch, handed.url, private)) == 2_000_000


def fetch(url: str, private: Private) -> bytes:
    context = ssl.create_default_context(cafile=private.ca_file)
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        data: bytes = answer.read()
    return data


async def test_a_private_authority_is_trusted_when_it_is_given(private: Private, name: str) -> None:
    """Without it the certificate is refused; with `skipverify` nothing is asked."""
    with pytest.raises(StorageUnavailable, match=r"(?i)certificate"):
        await use(private.driver(name, accountkey=ACCOUNT_KEY, attempts=2), private)
    await use(private.driver(name, accountkey=ACCOUNT_KEY, cabundle=private.ca_file), private)
    await use(private.driver(name, accountkey=ACCOUNT_KEY, skipverify=True), private)


async def test_an_application_with_a_secret(private: Private, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`client_secret`: no key of the account anywhere, and redirects all the same."""
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://{private.provider.host}")
    private.provider.requested.clear()
    driver = private.driver(
        name, credential_type="client_secret", tenantid="the-tenant", clientid="the-client", secret="s3cret",
        cabundle=private.ca_file,
    )  # fmt: skip
    await use(driver, private)
    ((path, output),) = private.provider.requested
    assert path == "/the-tenant/oauth2/v2.0/token"
    assert (output["client_id"], output["client_secret"]) == ("the-client", "s3cret")
    assert output["scope"] == "https://storage.azure.com/.default"


async def test_a_workload_identity(
    private: Private, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`default_credentials` in Kubernetes: the cluster's token file is exchanged for an access token."""
    (tmp_path / "token").write_text("of the cluster")
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", f"https://{private.provider.host}")
    monkeypatch.setenv("AZURE_TENANT_ID", "the-tenant")
    monkeypatch.setenv("AZURE_CLIENT_ID", "the-client")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    private.provider.requested.clear()
    await use(private.driver(name, credential_type="default_credentials", cabundle=private.ca_file), private)
    output = private.provider.requested[-1][1]
    assert output["client_assertion"] == "of the cluster"


async def test_an_identity_that_gets_no_token_is_told(
    private: Private, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names the provider's answer, not the secret."""
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://127.0.0.1:1")
    driver = private.driver(
        name, credential_type="client_secret", tenantid="t", clientid="c", secret="s3cret",
        cabundle=private.ca_file,
        attempts=1,
    )  # fmt: skip
    with pytest.raises(StorageUnavailable) as caught:
        await driver.read(KEY)
    assert "s3cret" not in str(caught.value)
    await driver.close()


async def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose only way out is a proxy."""
    seen: list[str] = []
    with a_container() as container, a_proxy(container, seen) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        for variable in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(variable, raising=False)
        url = f"http://blobs.example/{ACCOUNT}"
        driver = container.driver(serviceurl=url)
        await driver.write(KEY, b"text")
        assert (await driver.read(KEY)).data == b"text"
        await driver.close()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        seen_before = len(seen)
        driver = container.driver()
        assert (await driver.read(KEY)).data == b"text"
        await driver.close()
        for variable in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(variable)
    assert seen[0].startswith(url)
    assert len(seen) == seen_before


@contextmanager
def a_proxy(container: Container, seen: list[str]) -> Iterator[str]:
    """Takes every name for azurite."""
    import http.client

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            seen.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            inner = http.client.HTTPConnection("127.0.0.1", container.server.port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}
            inner.request(self.command, f"{parts.path}?{parts.query}", body, headers)
            output = inner.getresponse()
            text = output.read()
            self.send_response_only(output.status)
            for header, value in output.getheaders():
                if header.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(header, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
            inner.close()

        do_GET = do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815  names of the base class

        def log_message(self, *_: object) -> None:
            """Discard the line."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_other_clouds_have_other_authorities() -> None:
    """An identity of Azure China is unknown to the public cloud."""
    options = AzureOptions(accountname="abc", container="images", realm="core.chinacloudapi.cn")
    assert options.url == "https://abc.blob.core.chinacloudapi.cn"
    assert options.authority == "login.chinacloudapi.cn"
    assert AzureOptions(accountname="abc", container="images").authority == ""
