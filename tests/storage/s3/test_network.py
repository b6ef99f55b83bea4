"""The S3 driver's way to the store: Amazon's addresses, private authorities, proxies."""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import trustme
from tests.s3 import Bucket, a_bucket, front, is_moto

from moorage.storage.driver import Key, SignedUrl, StorageUnavailable
from moorage.testing.listing_contract import flat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from moorage.storage.object_store.driver import ObjectDriver

pytestmark = pytest.mark.slow

KEY = Key("docker/link")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name in list(os.environ):
        if name.startswith(("AWS_", "SSL_CERT_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    with a_bucket(watched=True) as bucket:
        yield bucket


async def use_both_libraries(driver: ObjectDriver) -> None:
    """One request by each."""
    try:
        await driver.write(KEY, b"text")
        assert (await driver.read(KEY)).data == b"text"
        assert await flat(driver.children(Key("docker"))) == ["link"]
    finally:
        await driver.close()


@pytest.mark.parametrize(
    ("options", "host", "path"),
    [
        ({"region": "eu-west-1"}, "the-bucket.s3.eu-west-1.amazonaws.com", "/docker/link"),
        ({"region": "brand-new-1"}, "the-bucket.s3.brand-new-1.amazonaws.com", "/docker/link"),
        ({"region": "cn-north-1"}, "the-bucket.s3.cn-north-1.amazonaws.com.cn", "/docker/link"),
        ({"region": "eu-west-1", "forcepathstyle": True}, "s3.eu-west-1.amazonaws.com", "/the-bucket/docker/link"),
        ({"region": "eu-west-1", "bucket": "with.dots"}, "s3.eu-west-1.amazonaws.com", "/with.dots/docker/link"),
        ({"region": "eu-west-1", "usedualstack": True}, "the-bucket.s3.dualstack.eu-west-1.amazonaws.com",
         "/docker/link"),
        ({"region": "us-east-1", "usefipsendpoint": True}, "the-bucket.s3-fips.us-east-1.amazonaws.com",
         "/docker/link"),
        ({"region": "eu-west-1", "accelerate": True}, "the-bucket.s3-accelerate.amazonaws.com", "/docker/link"),
    ],
)  # fmt: skip
async def test_amazons_addresses(bucket: Bucket, options: dict[str, Any], host: str, path: str) -> None:
    """As botocore resolves them, for both libraries; regions that no list knows yet are taken."""
    driver = bucket.driver(**{"regionendpoint": "", "bucket": "the-bucket", **options})
    found = await driver.handover(KEY, method="GET", expires_s=60)
    await driver.close()
    assert isinstance(found, SignedUrl)
    parts = urlsplit(found.url)
    assert (parts.scheme, parts.netloc, parts.path) == ("https", host, path)


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    """An authority of our own, and the file that holds it."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return ca, str(tmp_path / "ca.pem")


@pytest.fixture
def secure(authority: tuple[trustme.CA, str]) -> Iterator[str]:
    """The store behind a certificate of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("127.0.0.1").configure_cert(context)
    with front().over_tls(context) as url:
        yield url


@pytest.mark.parametrize("how", ["cabundle", "AWS_CA_BUNDLE", "SSL_CERT_FILE", "skipverify"])
async def test_a_private_authority_is_trusted_where_it_is_named(
    bucket: Bucket, secure: str, authority: tuple[trustme.CA, str], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MinIO or Ceph of the house has a certificate of the house."""
    options: dict[str, Any] = {}
    if how == "cabundle":
        options["cabundle"] = authority[1]
    elif how == "skipverify":
        options["skipverify"] = True
    else:
        monkeypatch.setenv(how, authority[1])
    await use_both_libraries(bucket.driver(regionendpoint=secure, **options))


async def test_an_authority_that_nobody_named_is_not_trusted(bucket: Bucket, secure: str) -> None:
    """Otherwise any host in between could read and change every layer."""
    for call in ("write", "children"):
        driver = bucket.driver(regionendpoint=secure, attempts=1)
        with pytest.raises(StorageUnavailable, match="no answer"):
            await (driver.write(KEY, b"") if call == "write" else flat(driver.children(Key("docker"))))
        await driver.close()


@contextmanager
def a_proxy(target: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy that sends everything to `target`; its address, and the URLs that it was asked for."""
    requested: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            requested.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(urlsplit(target).netloc)
            parts = urlsplit(self.path)
            # The host is signed, which moto does not check; it would take it for a service of Amazon's.
            sent = {name: value for name, value in self.headers.items() if name.lower() != "host" or not is_moto()}
            connection.request(self.command, f"{parts.path}?{parts.query}", body, sent)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = _pass  # noqa: N815  named by the standard library

        def log_message(self, *_: object) -> None:
            """Discard the line."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requested
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_proxy_of_the_environment_is_used(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries behind a firewall reach the store by the proxy alone."""
    with a_proxy(front().endpoint) as (url, requested), monkeypatch.context() as patch:
        patch.setenv("HTTP_PROXY", url)
        patch.setenv("http_proxy", url)
        await use_both_libraries(bucket.driver(regionendpoint="http://store.invalid"))
    assert len(requested) == 3
    assert all(path.startswith("http://store.invalid/") for path in requested)
