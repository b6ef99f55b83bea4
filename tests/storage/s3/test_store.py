"""The S3 driver beside its contract: limits of the store, what is sent with requests, URLs, and what is left.

On moto, or where it is not about moto's requests, on the store that the environment names (docs/testing.md).
"""

from __future__ import annotations

import asyncio
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.live import require
from tests.s3 import Bucket, Request, Trouble, a_bucket, cannot_hold, front, is_moto

from moorage.storage.driver import Key, KeyMissing, SignedUrl, StorageUnavailable, UploadChanged, Version
from moorage.storage.object_store.chunk_log import ChunkLog
from moorage.storage.object_store.chunk_state import LogState
from moorage.storage.object_store.interface import Source
from moorage.storage.s3.multipart import parts_of
from moorage.storage.s3.options import S3Limits, S3Options
from moorage.testing.builders import blob
from moorage.testing.listing_contract import flat
from moorage.testing.upload_contract import HOME, TO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.storage.driver import UploadState
    from moorage.storage.object_store.driver import ObjectDriver

pytestmark = pytest.mark.slow

DATA = blob(size=23_456).data
REGISTRY = Key("docker/registry/v2")


@pytest.fixture
def watched() -> None:
    """Its bucket is reached through `front()`."""


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    with a_bucket(watched="watched" in request.fixturenames) as bucket:
        yield bucket


@pytest.fixture
def unit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the smallest part.  moto is made to take parts of any size, so that a few KB cross every limit."""
    if not is_moto():
        return 5 << 20
    monkeypatch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
    return 1000


async def upload(driver: ObjectDriver, data: bytes, home: Key = HOME) -> UploadState:
    """Three requests, the second of one byte."""
    state = await driver.uploads.begin(home)
    for piece in (data[: len(data) // 2], data[len(data) // 2 :][:1], data[len(data) // 2 + 1 :]):
        async with driver.uploads.append(home, state) as appender:
            await appender.write([piece])
            state = await appender.checkpoint()
    return state


async def read_all(driver: ObjectDriver, key: Key) -> bytes:
    async with driver.open(key) as reader:
        return b"".join([piece async for piece in reader])


def data_of(unit: int, units: float) -> bytes:
    return blob(size=round(unit * units)).data


def chunks(driver: ObjectDriver) -> None:
    """Tails go into chunks at once, however short they are."""
    assert isinstance(driver.uploads, ChunkLog)
    driver.uploads.tail_bytes = 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("units", [1, 4.999, 5, 5.001, 23.456])
async def test_more_chunks_than_an_object_has_parts_are_joined(
    make: Callable[..., ObjectDriver], bucket: Bucket, unit: int, units: float
) -> None:
    """A layer above 97 GiB is published like any other; the reference's upload fails at its 10,000th part."""
    limits = S3Limits(part_bytes=3 * unit, parts=5, group_bytes=3 * unit)
    driver, data = make(chunksize=unit, limits=limits, multipartcopythresholdsize=3 * unit), data_of(unit, units)
    chunks(driver)
    state = await upload(driver, data)
    await driver.uploads.publish(HOME, state, TO)
    assert await read_all(driver, TO) == data
    await driver.uploads.discard(HOME)
    assert bucket.keys() == {TO: len(data)}
    assert bucket.in_progress() == []


@pytest.mark.usefixtures("watched")
async def test_an_object_above_the_copy_limit_is_copied_in_parts(
    make: Callable[..., ObjectDriver], bucket: Bucket, unit: int
) -> None:
    """An upload that the reference left with more than 5 GiB is moved, where it fails itself."""
    data, more = data_of(unit, 7.456), b"and more" * (unit // 2)
    begin_as_the_reference(bucket, [data[: 4 * unit], data[4 * unit :]])
    limits = S3Limits(part_bytes=3 * unit, parts=100)
    driver = make(chunksize=unit, limits=limits, multipartcopychunksize=unit, multipartcopythresholdsize=2 * unit)
    state = await driver.uploads.state(HOME)
    assert state.offset == len(data)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([more])
        state = await appender.checkpoint()
    await driver.uploads.publish(HOME, state, TO)
    assert await read_all(driver, TO) == data + more
    ranges = [request for request in front().requests if "x-amz-copy-source-range" in request.headers]
    assert len(ranges) >= 7


def begin_as_the_reference(bucket: Bucket, parts: list[bytes], started: str = "2026-11-24T15:18:03Z") -> None:
    client = bucket.client
    client.put_object(Bucket=bucket.name, Key=f"{HOME}/startedat", Body=started.encode())
    begun = client.create_multipart_upload(Bucket=bucket.name, Key=f"{HOME}/data")
    for number, part in enumerate(parts, 1):
        client.upload_part(
            Bucket=bucket.name, Key=f"{HOME}/data", UploadId=begun["UploadId"], PartNumber=number, Body=part
        )


@pytest.mark.parametrize("parts", [[], [b"x" * 70_000], [b"x" * (5 << 20), b"y"]], ids=["none", "short", "two"])
async def test_the_references_unfinished_upload_is_taken_over(
    make: Callable[..., ObjectDriver], bucket: Bucket, parts: list[bytes]
) -> None:
    """A client whose upload the old registry began continues it at Moorage."""
    begin_as_the_reference(bucket, parts)
    driver, begun = make(chunksize=5 << 20), b"".join(parts)
    state = await driver.uploads.state(HOME)
    assert (state.offset, state.started) == (len(begun), datetime(2026, 11, 24, 15, 18, 3, tzinfo=UTC))
    async with driver.uploads.append(HOME, state) as appender:
        await appender.write([b"ours"])
        state = await appender.checkpoint()
    await make().uploads.publish(HOME, await make().uploads.state(HOME), TO)
    assert await read_all(driver, TO) == begun + b"ours"
    await driver.uploads.discard(HOME)
    assert list(bucket.keys()) == [TO]
    assert bucket.in_progress() == []


async def test_what_the_reference_began_goes_when_it_is_old(
    make: Callable[..., ObjectDriver], bucket: Bucket
) -> None:
    """The reference leaves the parts for ever, and nothing but the bill shows them."""
    begin_as_the_reference(bucket, [b"x" * 70_000])
    driver, later = make(), datetime.now(UTC) + timedelta(seconds=5)
    assert [home async for home in driver.uploads.abandoned(REGISTRY, later)] == [HOME]
    await driver.uploads.discard(HOME)
    assert (bucket.keys(), bucket.in_progress()) == ({}, [])


async def test_parts_that_a_dead_process_left_are_swept(make: Callable[..., ObjectDriver], bucket: Bucket) -> None:
    """Only old ones, only below the root: other programs use the bucket, too."""
    client, driver = bucket.client, make()
    for key in (TO, "elsewhere/data", f"{REGISTRY}-other/data"):
        begun = client.create_multipart_upload(Bucket=bucket.name, Key=key)
        client.upload_part(Bucket=bucket.name, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"part")
    earlier, later = (datetime.now(UTC) + timedelta(seconds=seconds) for seconds in (-3600, 5))
    if not is_moto():  # it reports 2010 as the start of each
        assert list(await driver.uploads.sweep(REGISTRY, earlier)) == []
    assert list(await driver.uploads.sweep(REGISTRY, later, dry_run=True)) == [TO]
    assert len(bucket.in_progress()) == 3
    assert list(await driver.uploads.sweep(REGISTRY, later)) == [TO]
    assert sorted(bucket.in_progress()) == [f"{REGISTRY}-other/data", "elsewhere/data"]


async def test_a_large_object_is_written_in_parts_and_leaves_none(
    make: Callable[..., ObjectDriver], bucket: Bucket
) -> None:
    """A layer fetched by a mirror is invisible until it is whole, and gone when the fetch fails."""
    driver, data = make(chunksize=5 << 20), blob(size=11 << 20).data
    for key, commit in ((TO, True), (Key("other"), False)):
        async with driver.create(key) as writer:
            await writer.write([data[: 7 << 20], data[7 << 20 :]])
            assert key not in bucket.keys()  # noqa: SIM118  no dict
            assert bucket.in_progress() == [key]
            if commit:
                await writer.commit()
    assert bucket.keys() == {TO: len(data)}
    assert bucket.in_progress() == []
    assert await read_all(driver, TO) == data


@pytest.mark.usefixtures("watched")
async def test_a_failed_publication_leaves_no_parts(
    make: Callable[..., ObjectDriver], bucket: Bucket, unit: int
) -> None:
    """The store fails in the middle; the upload is kept, and the next attempt succeeds."""
    driver, data = make(chunksize=unit, attempts=1), data_of(unit, 5.456)
    state = await upload(driver, data)

    def trouble(request: Request) -> Trouble | None:
        return Trouble(500, "InternalError") if "partNumber=4" in request.query else None

    front().trouble = trouble
    with pytest.raises(StorageUnavailable, match="InternalError"):
        await driver.uploads.publish(HOME, state, TO)
    assert bucket.in_progress() == []
    front().trouble = None
    with pytest.raises(KeyMissing):
        await driver.stat(TO)
    await make(chunksize=unit).uploads.publish(HOME, await driver.uploads.state(HOME), TO)
    assert await read_all(driver, TO) == data


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("moment", range(1, 11))
async def test_a_cancelled_publication_leaves_no_parts(
    make: Callable[..., ObjectDriver], bucket: Bucket, unit: int, moment: int
) -> None:
    """A client that hangs up in any moment of the join costs nothing that lasts, and may try again."""
    driver, data = make(chunksize=unit), data_of(unit, 5.456)
    state = await upload(driver, data)
    loop, count = asyncio.get_running_loop(), 0
    publishing = asyncio.ensure_future(driver.uploads.publish(HOME, state, TO))

    def trouble(request: Request) -> None:
        nonlocal count
        count += 1
        if count == moment:
            loop.call_soon_threadsafe(publishing.cancel)

    front().trouble = trouble
    await asyncio.wait([publishing])
    front().trouble = None
    assert bucket.in_progress() == []
    assert bucket.keys().get(TO, len(data)) == len(data)
    await make(chunksize=unit).uploads.publish(HOME, await driver.uploads.state(HOME), TO)
    assert await read_all(driver, TO) == data


@pytest.mark.usefixtures("watched")
async def test_a_blob_that_is_there_is_not_joined_again(make: Callable[..., ObjectDriver], unit: int) -> None:
    """Base layers come with every image; looking costs one request, joining many."""
    driver, data = make(chunksize=unit), data_of(unit, 3.456)
    await driver.uploads.publish(HOME, await upload(driver, data), TO)
    again = Key(f"{HOME}2")
    state = await upload(driver, data, again)
    front().requests.clear()
    await driver.uploads.publish(again, state, TO)
    assert [request.method for request in front().requests] == ["HEAD"]


async def test_a_chunk_overwritten_behind_our_back_is_refused_where_the_store_can_tell(
    make: Callable[..., ObjectDriver], bucket: Bucket
) -> None:
    """Bytes that were never hashed become no blob.  moto does not compare the ETags of what it copies."""
    driver = make(chunksize=5 << 20)
    chunks(driver)
    state = await upload(driver, DATA)
    assert isinstance(state.held, LogState)
    part = f"{HOME}/{state.held.chunks[-1].name}"
    bucket.client.put_object(Bucket=bucket.name, Key=part, Body=b"evil")
    with pytest.raises(UploadChanged):
        async with driver.uploads.append(HOME, state) as appender:
            await appender.write([b"more"])
    if is_moto():
        front().requests.clear()
        await driver.uploads.publish(HOME, state, TO)
        assert all(request.headers.get("x-amz-copy-source-if-match") for request in front().requests)
    else:
        try:
            await driver.uploads.publish(HOME, state, TO)
        except UploadChanged:
            return
        cannot_hold("it does not compare the versions of what it copies")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_signed_url_is_what_curl_can_fetch(make: Callable[..., ObjectDriver], method: str) -> None:
    """A client is sent to the store with nothing but the URL; ranges work there as here."""
    driver, curl = make(), require("curl")
    await driver.write(TO, b"0123456789")
    url = await driver.handover(TO, method=method, expires_s=60)
    assert isinstance(url, SignedUrl)
    command = [curl, "-sf", url.url] if method == "GET" else [curl, "-sfI", url.url]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done
    if method == "HEAD":
        assert b"content-length: 10" in done.stdout.lower()
        return
    assert done.stdout == b"0123456789"
    ranged = [*command, "-r", "2-4"]
    part = await asyncio.to_thread(subprocess.run, ranged, capture_output=True, check=True, timeout=30)
    assert part.stdout == b"234"


async def test_a_closed_driver_opens_nothing(bucket: Bucket) -> None:
    """Requests that still run when a worker ends would open sessions that nothing closes (tests/leaks.py finds
    them).
    """
    for used in (True, False):
        driver = bucket.driver()
        if used:
            await driver.write(TO, b"text")
            assert await driver.handover(TO, method="GET", expires_s=60)
        await driver.close()
        for call in (driver.read(TO), flat(driver.children(REGISTRY)), driver.probe()):
            with pytest.raises(StorageUnavailable, match="closed"):
                await call
        await driver.close()


async def test_urls_may_name_another_host(make: Callable[..., ObjectDriver], bucket: Bucket) -> None:
    """The registry reaches the store by an inner address, and clients by an outer one."""
    url = await make(redirectendpoint="https://cdn.example:8443").handover(TO, method="GET", expires_s=60)
    assert isinstance(url, SignedUrl)
    assert url.url.startswith(f"https://cdn.example:8443/{bucket.name}/{TO}?X-Amz-")
    assert "X-Amz-Expires=60" in url.url
    assert bucket.secret_key not in url.url
    host = await make(redirectendpoint="https://cdn.example", forcepathstyle=False).handover(
        TO, method="GET", expires_s=60
    )
    assert isinstance(host, SignedUrl)
    assert host.url.startswith(f"https://{bucket.name}.cdn.example/{TO}?")


@pytest.mark.parametrize("root", ["registries/main", "/registries/main/", "//registries/main"])
async def test_a_root_stands_before_every_key(
    make: Callable[..., ObjectDriver], bucket: Bucket, root: str
) -> None:
    """Several registries share a bucket, under the very keys that the reference would use."""
    driver, beside = make(rootdirectory=root), make(rootdirectory="registries/main2")
    await driver.write(Key("docker/a/b"), b"text")
    await beside.write(Key("docker/c"), b"text")
    assert set(bucket.keys()) == {"registries/main/docker/a/b", "registries/main2/docker/c"}
    assert [name async for page in driver.children(Key("docker")) for name in page] == ["a"]
    assert [stat.key async for page in driver.scan(Key("docker")) for stat in page] == ["docker/a/b"]
    await driver.delete([Key("docker/a/b")])
    await driver.clear(Key("docker"))
    assert set(bucket.keys()) == {"registries/main2/docker/c"}


async def test_odd_names_in_the_bucket_are_left_alone_and_keep_nobody_from_the_rest(
    make: Callable[..., ObjectDriver], bucket: Bucket
) -> None:
    """Consoles leave folder markers, scripts leave worse; a collector that stumbles over one collects nothing."""
    odd = ["docker/a/", "docker/c//d", "docker/c/../f", "docker/g h/i", "docker/\u00fc"]
    for key in (*odd, "docker/a/b", "docker/zz/y", "docker/0"):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"x")
    driver = make()
    found = {stat.key async for page in driver.scan(Key("docker")) for stat in page}
    assert found - {"docker/a"} == {"docker/a/b", "docker/zz/y", "docker/0"}
    names = [name async for page in driver.children(Key("docker")) for name in page]
    assert set(names) >= {"0", "a", "zz"}
    await driver.clear(Key("docker"))
    assert set(bucket.keys()) == set(odd)


def sent(method: str, part: str) -> list[dict[str, str]]:
    """The headers of the requests of a method whose path and query hold `part`."""
    return [request.headers for request in front().requests if request.method == method and part in str(request)]


@pytest.mark.usefixtures("watched", "unit")
async def test_class_encryption_and_access_list_go_with_what_is_kept(make: Callable[..., ObjectDriver]) -> None:
    """In every way that makes an object: put, copied, joined.  The reference forgets the KMS key in one."""
    if not is_moto():
        cannot_hold("it has no key service and no such storage class")
    driver = make(
        chunksize=1000, storageclass="STANDARD_IA", objectacl="bucket-owner-full-control", encrypt=True,
        keyid="key-id", useragent="moorage/test",
    )  # fmt: skip
    chunks(driver)
    await driver.write(Key("docker/link"), b"text")
    for number, size in enumerate((1000, 2500, 10)):
        home = Key(f"{HOME}{number}")
        await driver.uploads.publish(home, await upload(driver, DATA[:size], home), Key(f"docker/{number}/data"))
    kept = sent("PUT", "docker/link") + sent("POST", "?uploads") + sent("PUT", "/0/data") + sent("PUT", "/2/data")
    assert len(kept) == 4
    for headers in kept:
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-id"
        assert headers["x-amz-acl"] == "bucket-owner-full-control"
    for headers in sent("PUT", "/parts/") + sent("PUT", "/state"):
        assert "x-amz-storage-class" not in headers, "the life of a chunk is seconds"
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
    assert all(request.headers["user-agent"].startswith("moorage/test") for request in front().requests[1:])
    assert not any(name.startswith("x-amz-checksum") for request in front().requests for name in request.headers
                   if "delete" not in request.query)  # fmt: skip


@pytest.mark.usefixtures("watched")
async def test_without_settings_nothing_is_asked_for(make: Callable[..., ObjectDriver]) -> None:
    """Stores that know neither classes nor lists refuse requests that name them."""
    await make().write(Key("docker/link"), b"text")
    (headers,) = sent("PUT", "docker/link")
    assert not {name for name in headers if name.startswith("x-amz-")} - {"x-amz-date", "x-amz-content-sha256"}


def test_parts_of_a_large_source_are_neither_too_small_nor_too_many() -> None:
    """5 MiB at least but for the last, 5 GiB at most, 10,000 of them: S3's rules, for any size."""
    mib, gib = 1 << 20, 1 << 30
    for size in (5 * mib, 32 * mib + 1, 97 * gib + 5, 5 * gib, 5 * gib + 1, 4096 * gib + 17):
        source = Source(Key("data"), size, Version("any"))
        parts = parts_of([source], limits=S3Limits(), copy_chunk=32 * mib, copy_threshold=32 * mib)
        assert [start for _, start, _ in parts] == [0, *(stop for _, _, stop in parts[:-1])]
        assert parts[-1][2] == size
        assert len(parts) <= 10_000
        assert all(min(size, 5 * mib) <= stop - start <= 5 * gib for _, start, stop in parts)


@pytest.mark.parametrize(
    ("given", "url", "style"),
    [
        ({"regionendpoint": "minio:9000", "secure": False}, "http://minio:9000", "path"),
        ({"regionendpoint": "minio:9000"}, "https://minio:9000", "path"),
        ({"regionendpoint": "http://minio:9000/"}, "http://minio:9000", "path"),
        ({"regionendpoint": "https://r2.example", "forcepathstyle": False}, "https://r2.example", "virtual"),
        ({"region": "eu-west-1"}, "", "virtual"),
        ({"region": "eu-west-1", "forcepathstyle": True}, "", "path"),
    ],
)
def test_addresses_and_styles(given: dict[str, Any], url: str, style: str) -> None:
    """2.8's meaning of regionendpoint, which most MinIO and Ceph set-ups rest on, unless the style is named."""
    options = S3Options(bucket="b", **given)
    assert (options.endpoint_url, options.style) == (url, style)
