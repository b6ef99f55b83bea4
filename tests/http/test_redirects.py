"""`middleware.storage` from the file to what a client is answered, over files and over a bucket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.http.client import NAME
from tests.s3 import a_bucket
from tests.storage.middleware.test_cloudfront import verified
from tests.storage.middleware.test_ip_ranges import amazon

from moorage.config.model import Settings
from moorage.config.sections.services import Middleware, MiddlewareEntry
from moorage.config.sections.storage import S3, Delete, Filesystem, Redirect, Storage
from moorage.startup import StartupError
from moorage.testing.builders import blob
from moorage.wiring.redirects import make_rules
from moorage.wiring.storage import make_driver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.conftest import Serve
    from tests.storage.middleware.test_ip_ranges import Amazon

__all__ = ["amazon"]

LAYER = blob(size=100_000)
SMALL = blob(b"small")


def entries(*given: tuple[str, dict[str, Any]]) -> Middleware:
    return Middleware(storage=tuple(MiddlewareEntry(name=name, options=options) for name, options in given))


def on_files(root: Path, middleware: Middleware, **storage: Any) -> Settings:
    return Settings(
        storage=Storage(filesystem=Filesystem(rootdirectory=str(root)), **storage), middleware=middleware
    )


def key_of(digest: str) -> str:
    hexadecimal = digest.removeprefix("sha256:")
    return f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"


async def test_redirect_sends_downloads_away_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    """Also from files; HEAD, errors and 304 are answered by the registry, which checks the access before."""
    settings = on_files(tmp_path, entries(("redirect", {"baseurl": "https://cdn.example.com/r"})))
    client = serve(settings, driver=make_driver(settings))
    await client.push_blob(LAYER)
    target = f"/v2/{NAME}/blobs/{LAYER.digest}"
    got = await client.get(target)
    assert got.status_code == 307
    assert got.headers["location"] == f"https://cdn.example.com/r/{key_of(str(LAYER.digest))}"
    assert (await client.get(target, {"range": "bytes=0-9"})).status_code == 307
    head = await client.send("HEAD", target)
    assert (head.status_code, head.headers["content-length"]) == (200, "100000")
    assert (await client.get(target, {"if-none-match": f'"{LAYER.digest}"'})).status_code == 304
    assert (await client.get(f"/v2/team/other/blobs/{LAYER.digest}")).status_code == 404


async def test_rewrite_leaves_files_alone(serve: Serve, tmp_path: Path) -> None:
    settings = on_files(tmp_path, entries(("rewrite", {"host": "cdn.example.com"})))
    client = serve(settings, driver=make_driver(settings))
    await client.push_blob(LAYER)
    got = await client.get(f"/v2/{NAME}/blobs/{LAYER.digest}")
    assert (got.status_code, got.content) == (200, LAYER.data)


async def test_switched_off_redirects_stay_off(serve: Serve, tmp_path: Path) -> None:
    """`storage.redirect.disable` is there for clients that cannot reach the other place."""
    middleware = entries(("redirect", {"baseurl": "https://cdn.example.com"}))
    settings = on_files(tmp_path, middleware, redirect=Redirect(disable=True))
    client = serve(settings, driver=make_driver(settings))
    await client.push_blob(LAYER)
    got = await client.get(f"/v2/{NAME}/blobs/{LAYER.digest}")
    assert (got.status_code, got.content) == (200, LAYER.data)


async def test_the_last_of_the_list_has_the_last_word(serve: Serve, tmp_path: Path) -> None:
    first, last = ("redirect", {"baseurl": "https://a.example.com"}), ("rewrite", {"host": "b.example.com"})
    for given, host in (((first, last), "b"), ((last, first), "a")):
        settings = on_files(tmp_path, entries(*given))
        client = serve(settings, driver=make_driver(settings))
        await client.push_blob(SMALL)
        got = await client.get(f"/v2/{NAME}/blobs/{SMALL.digest}")
        assert got.headers["location"] == f"https://{host}.example.com/{key_of(str(SMALL.digest))}"


@pytest.mark.slow
async def test_a_bucket_behind_cloudfront_and_behind_rewrite(serve: Serve, tmp_path: Path) -> None:
    """The signed path is that of the object in the bucket, where CloudFront fetches it; a rewritten URL that is
    rewritten back is still good.
    """
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    options = {
        "baseurl": "d1.cloudfront.net", "privatekey": str(tmp_path / "key.pem"), "keypairid": "K1",
    }  # fmt: skip
    with a_bucket() as bucket:
        s3 = S3(**bucket.settings(rootdirectory="main"))

        def settings(*given: tuple[str, dict[str, Any]]) -> Settings:
            return Settings(storage=Storage(s3=s3, delete=Delete(enabled=True)), middleware=entries(*given))

        signing = settings(("cloudfront", options))
        client = serve(signing, driver=make_driver(signing))
        await client.push_blob(LAYER)
        got = await client.get(f"/v2/{NAME}/blobs/{LAYER.digest}")
        url = got.headers["location"]
        path = f"main/{key_of(str(LAYER.digest))}"
        assert (got.status_code, url.partition("?")[0]) == (307, f"https://d1.cloudfront.net/{path}")
        assert verified(url, key)["Key-Pair-Id"] == "K1"
        assert path in set(bucket.keys())

        rewritten = settings(
            ("rewrite", {"scheme": "https", "host": "proxy", "trimpathprefix": f"/{bucket.name}"})
        )
        client = serve(rewritten, driver=make_driver(rewritten))
        url = (await client.get(f"/v2/{NAME}/blobs/{LAYER.digest}")).headers["location"]
        assert url.startswith(f"https://proxy/{path}?")
        back = url.replace("https://proxy", f"{bucket.endpoint}/{bucket.name}")
        async with httpx.AsyncClient() as direct:
            assert (await direct.get(back)).content == LAYER.data


@pytest.mark.slow
async def test_a_client_inside_aws_goes_straight_to_the_bucket(
    serve: Serve, tmp_path: Path, amazon: Amazon
) -> None:
    """As soon as the list is there; by the address of the connection, which is loopback here."""
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    amazon.body = b'{"prefixes": [{"ip_prefix": "127.0.0.0/8", "region": "us-east-1"}]}'
    options = {
        "baseurl": "d1.cloudfront.net", "privatekey": str(tmp_path / "key.pem"), "keypairid": "K1",
        "ipfilteredby": "awsregion", "awsregion": "us-east-1", "iprangesurl": amazon.url,
    }  # fmt: skip
    with a_bucket() as bucket:
        settings = Settings(
            storage=Storage(s3=S3(**bucket.settings())), middleware=entries(("cloudfront", options))
        )
        client = serve(settings, driver=make_driver(settings))
        await client.push_blob(LAYER)
        seen: list[str] = []
        async with asyncio.timeout(60):
            while not seen or seen[-1].startswith("https://d1."):
                seen.append((await client.get(f"/v2/{NAME}/blobs/{LAYER.digest}")).headers["location"])
        assert seen[0].startswith("https://d1.cloudfront.net/"), "no list yet"
        assert seen[-1].startswith(f"{bucket.endpoint}/{bucket.name}/")


def test_a_key_that_cannot_be_used_is_told_at_start(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("none")
    options = {"baseurl": "h", "privatekey": str(tmp_path / "key.pem"), "keypairid": "K"}
    middleware = entries(("cloudfront", options))
    with pytest.raises(StartupError, match=r"middleware\.storage\[0\]\.options\.privatekey: .* no private key"):
        make_rules(Settings(storage=Storage(s3=S3(bucket="b", region="r")), middleware=middleware))
    with pytest.raises(StartupError, match=r"needs storage\.s3"):
        make_rules(on_files(tmp_path, middleware))
    with pytest.raises(StartupError, match="baseurl: required"):
        make_rules(on_files(tmp_path, entries(("redirect", {}))))
