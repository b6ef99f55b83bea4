"""`cloudfront`: URLs that CloudFront would verify, checked with the public key as documented."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from moorage.startup import StartupError
from moorage.storage.driver import Key, SignedUrl
from moorage.storage.middleware.cloudfront import CloudFront, Signer, load_key

if TYPE_CHECKING:
    from pathlib import Path

RSA = rsa.generate_private_key(65537, 2048)
KEY = Key("docker/registry/v2/blobs/sha256/ab/abc/data")
INNER = SignedUrl("https://bucket.s3.example.com/x?signature")
NOW = 1_700_000_000.5


def verified(url: str, key: rsa.RSAPrivateKey = RSA) -> dict[str, str]:
    """The fields of the query; raises InvalidSignature for what CloudFront would answer with 403."""
    fields = {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}
    resource = url.partition("?")[0]
    policy = (
        '{"Statement":[{"Resource":"' + resource + '","Condition":{"DateLessThan":{"AWS:EpochTime":'
        + fields["Expires"] + "}}}]}"
    )  # fmt: skip
    signature = base64.b64decode(fields["Signature"].replace("-", "+").replace("_", "=").replace("~", "/"))
    key.public_key().verify(signature, policy.encode(), PKCS1v15(), SHA1())
    return fields


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: PrivateFormat, secret: bytes = b"") -> bytes:
    return key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(secret) if secret else NoEncryption())


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
@pytest.mark.parametrize("base", ["https://d111.cloudfront.net", "https://d111.cloudfront.net/"])
async def test_the_url_is_what_cloudfront_verifies(tmp_path: Path, form: PrivateFormat, base: str) -> None:
    """Object, expiry and key are named; either kind of PEM file does."""
    (tmp_path / "key.pem").write_bytes(pem(RSA, form))
    signer = Signer(load_key(str(tmp_path / "key.pem")), "KPAIR", clock=lambda: NOW)
    rule = CloudFront(base, signer, prefix="a root/", lasts_s=1200)
    found = await rule.apply(INNER, KEY, "192.0.2.1")
    assert isinstance(found, SignedUrl)
    assert found.url.startswith(f"https://d111.cloudfront.net/a%20root/{KEY}?Expires=")
    assert verified(found.url) == {
        "Expires": "1700001200", "Key-Pair-Id": "KPAIR", "Signature": verified(found.url)["Signature"],
    }  # fmt: skip
    assert not set(urlsplit(found.url).query) & set("+/%")
    await rule.close()


async def test_another_key_object_or_time_is_refused() -> None:
    """That the check above checks anything."""
    url = Signer(RSA, "K", clock=lambda: NOW).sign("https://h/x", 60)
    verified(url)
    for other in (url.replace("https://h/x", "https://h/y"), url.replace("Expires=17", "Expires=18")):
        with pytest.raises(InvalidSignature):
            verified(other)
    with pytest.raises(InvalidSignature):
        verified(url, rsa.generate_private_key(65537, 2048))


class Nearby:
    """Fake of `IpRanges`, which test_ip_ranges.py tests."""

    closed = False

    def includes(self, client: str) -> bool:
        return client == "10.0.0.1"

    async def close(self) -> None:
        self.closed = True


async def test_clients_inside_aws_keep_the_url_of_s3() -> None:
    nearby = Nearby()
    rule = CloudFront("https://c", Signer(RSA, "K"), prefix="", lasts_s=60, nearby=nearby)  # type: ignore[arg-type]
    assert await rule.apply(INNER, KEY, "10.0.0.1") is INNER
    for found, client in ((INNER, "10.0.0.2"), (INNER, ""), (None, "10.0.0.1")):
        out = await rule.apply(found, KEY, client)
        assert isinstance(out, SignedUrl)
        assert out.url.startswith(f"https://c/{KEY}?")
    await rule.close()
    assert nearby.closed


@pytest.mark.parametrize(
    ("content", "output"),
    [
        (None, "No such file"), (b"", "no private key"), (b"hush hush", "no private key"),
        (pem(RSA, PrivateFormat.PKCS8, b"pass"), "no private key"),
        (pem(ec.generate_private_key(ec.SECP256R1()), PrivateFormat.PKCS8), "not RSA"),
        (pem(RSA, PrivateFormat.PKCS8).replace(b"PRIVATE", b"PUBLIC"), "no private key"),
    ],
    ids=["missing", "empty", "text", "encrypted", "curve", "public"],
)  # fmt: skip
def test_a_key_that_cannot_sign_is_refused(tmp_path: Path, content: bytes | None, output: str) -> None:
    """At start, and not by every pull."""
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=output) as caught:
        load_key(str(path))
    assert "hush" not in str(caught.value)
