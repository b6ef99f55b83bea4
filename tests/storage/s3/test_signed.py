"""URLs that the registry signs, at a store that checks them: they open one object, for a while, and nothing else.

moto verifies no signature, so that there is nothing to see there: `python3 dev.py stores`.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.live import start_moorage
from tests.s3 import Bucket, a_bucket, is_moto
from tests.wire import Wire

from moorage.registry import layout
from moorage.storage.driver import Key, SignedUrl, StorageUnavailable
from moorage.testing.listing_contract import flat
from moorage.testing.upload_contract import TO
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from moorage.storage.object_store.driver import ObjectDriver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(is_moto(), reason="moto verifies no signature; `python3 dev.py stores` runs these tests"),
]

OURS, OTHERS = b"a layer of ours", b"a layer of somebody else"
OTHER = Key(f"{TO}2")
LIMIT_S = 60.0


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket() as bucket:
        yield bucket


@pytest.fixture
async def driver(bucket: Bucket) -> AsyncIterator[ObjectDriver]:
    driver = bucket.driver()
    await driver.write(TO, OURS)
    await driver.write(OTHER, OTHERS)
    yield driver
    await driver.close()


def fetch(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """Status and body, with nothing but the URL; a URL of another host is a failure."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=LIMIT_S)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def signed(driver: ObjectDriver, *, method: str = "GET", expires_s: int = 600) -> str:
    found = await driver.handover(TO, method=method, expires_s=expires_s)
    assert isinstance(found, SignedUrl)
    return found.url


async def test_a_url_opens_its_object_whole_and_in_part(driver: ObjectDriver) -> None:
    url = await signed(driver)
    assert fetch(url) == (200, OURS)
    assert fetch(url, Range="bytes=2-6") == (206, OURS[2:7])
    assert fetch(await signed(driver, method="HEAD"), "HEAD") == (200, b"")


CHANGES: dict[str, Any] = {
    "another object": lambda url: url.replace(f"/{TO}?", f"/{OTHER}?"),
    "a longer life": lambda url: url.replace("X-Amz-Expires=600", "X-Amz-Expires=60000"),
    "a later beginning": lambda url: re.sub(
        r"X-Amz-Date=\d{8}T\d{6}Z",
        f"X-Amz-Date={time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(time.time() + 30))}",
        url,
    ),
    "another signature": lambda url: re.sub(
        r"X-Amz-Signature=(\w)", lambda found: f"X-Amz-Signature={'0' if found[1] != '0' else '1'}", url
    ),
    "another key": lambda url: re.sub(r"X-Amz-Credential=[^%&]+", "X-Amz-Credential=somebody", url),
    "no signature": lambda url: url.partition("?")[0] + "?",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_url_that_was_changed_opens_nothing(driver: ObjectDriver, change: str) -> None:
    """A client that may pull one layer could otherwise read every other one, or this one for ever."""
    url = await signed(driver)
    changed = CHANGES[change](url)
    assert changed != url
    status, body = fetch(changed)
    assert status in {400, 401, 403}, body
    assert OURS not in body
    assert OTHERS not in body
    assert fetch(url) == (200, OURS), "the URL itself is still good"


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_url_to_read_does_not_write(driver: ObjectDriver, method: str) -> None:
    assert fetch(await signed(driver), method)[0] == 403
    assert (await driver.read(TO)).data == OURS


async def test_a_url_ends(driver: ObjectDriver) -> None:
    """Asked for again and again until the store refuses it, which it must; one of longer life is still good."""
    lasting, brief = await signed(driver), await signed(driver, expires_s=1)
    deadline = time.monotonic() + LIMIT_S
    while (found := fetch(brief))[0] == 200:
        assert time.monotonic() < deadline, "it opens the object for ever"
        await asyncio.sleep(0.1)
    assert found[0] == 403
    assert OURS not in found[1]
    assert fetch(lasting) == (200, OURS)


def test_clients_are_sent_with_urls_of_twenty_minutes_to_the_blob_alone(tmp_path: Path, bucket: Bucket) -> None:
    """Through a running registry; what it hands out is good, and good for nothing else."""
    storage = {"filesystem": None, "s3": bucket.settings()}
    with start_moorage(tmp_path / "registry", storage=storage) as live:
        wire = Wire(live.host)
        for data in (OURS, OTHERS):
            wire.push_blob("a/b", data)
        ours, others = (layout.blob_data(Digest.of(data)) for data in (OURS, OTHERS))
        answer = wire.blob("a/b", Digest.of(OURS))
        url = answer.headers["location"]
        assert answer.status == 307
        assert "X-Amz-Expires=1200&" in url
        assert fetch(url) == (200, OURS)
        assert fetch(url.replace(ours, others))[0] == 403


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"secret_key": "not the secret"}, "the secret key does not belong"),
        ({"access_key": "NOBODY"}, "the access key is unknown to the store|the secret key does not belong"),
    ],
)
async def test_wrong_credentials_are_told_by_their_name(bucket: Bucket, wrong: dict[str, str], hint: str) -> None:
    """In the log of the start.  Swift reports a wrong signature for an unknown access key."""
    driver = replace(bucket, **wrong).driver()
    for call in (driver.probe(), driver.write(TO, b""), flat(driver.children(Key("docker")))):
        with pytest.raises(StorageUnavailable, match=hint):
            await call
    await driver.close()
