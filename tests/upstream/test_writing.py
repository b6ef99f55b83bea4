"""Mounts, uploads and manifests, and each way in which they fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.upstream.faulty import FaultyRegistry, Gate
from tests.upstream.faulty_http import served

from moorage.registry import media
from moorage.types import Digest, parse_repo_name, parse_tag
from moorage.upstream.client import RegistryClient
from moorage.upstream.credentials import StaticCredentials
from moorage.upstream.errors import (
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnreachable,
)
from moorage.upstream.reference import parse_endpoint
from moorage.upstream.transport import ClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

NAME, OTHER = parse_repo_name("library/app"), parse_repo_name("library/base")
DATA = bytes(range(256)) * 4096  # 1 MiB
DIGEST = Digest.of(DATA)
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
PAIR = ("user", "correct horse battery")


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        yield registry


@pytest.fixture
async def client(upstream: FaultyRegistry) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(parse_endpoint(upstream.url), options=ClientOptions(read_timeout_s=5))
    yield client
    await client.close()


async def pieces(data: bytes = DATA, error: Exception | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]
    if error is not None:
        raise error


async def test_a_blob_is_uploaded_by_one_put(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """The state of the upload returns as it was sent; the length is announced."""
    await client.upload_blob(NAME, DIGEST, len(DATA), pieces())
    assert upstream.blobs_of(NAME) == {DIGEST: DATA}
    _, put = upstream.received
    assert put.query == {"_state": "signed-state", "digest": DIGEST}
    assert put.headers["content-length"] == str(len(DATA))
    assert put.headers["content-type"] == "application/octet-stream"


async def test_an_empty_blob(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A body of no bytes."""
    await client.upload_blob(NAME, Digest.of(b""), 0, pieces(b""))
    assert upstream.blobs_of(NAME) == {Digest.of(b""): b""}


async def test_the_address_of_an_upload(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """Relative or absolute, with a query or without."""
    for location in (f"{UPLOADS}1", f"{upstream.url}{UPLOADS}1?a=b%2Fc", "1?x"):
        upstream.fail("/uploads/", method="POST", status=202, headers={"Location": location}, times=1)
        await client.upload_blob(NAME, DIGEST, len(DATA), pieces())
        assert upstream.received[-1].query["digest"] == DIGEST
    assert [request.target.partition("?")[2] for request in upstream.received if request.method == "PUT"] == [
        f"digest={DIGEST}",
        f"a=b%2Fc&digest={DIGEST}",
        f"x&digest={DIGEST}",
    ]


async def test_an_upload_to_another_host_gets_no_credentials() -> None:
    """The registry may send uploads to a store of its own."""
    async with FaultyRegistry(basic=PAIR) as upstream, FaultyRegistry() as store:
        client = RegistryClient(parse_endpoint(upstream.url), StaticCredentials(*PAIR))
        try:
            upstream.fail("/uploads/", status=202, headers={"Location": f"{store.url}{UPLOADS}1"})
            await client.upload_blob(NAME, DIGEST, len(DATA), pieces())
        finally:
            await client.close()
        assert store.blobs_of(NAME) == {DIGEST: DATA}
        assert "authorization" not in store.received[0].headers


@pytest.mark.parametrize("location", [None, "", "ftp://x/", "http://["])
async def test_an_upload_without_an_address(
    upstream: FaultyRegistry, client: RegistryClient, location: str | None
) -> None:
    """The answer breaks the protocol."""
    upstream.fail("/uploads/", status=202, headers={} if location is None else {"Location": location})
    with pytest.raises(UpstreamInvalid, match="202 without a usable Location"):
        await client.upload_blob(NAME, DIGEST, len(DATA), pieces())


async def test_an_error_of_the_source_is_the_cause(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """It breaks the connection as well, which would otherwise look like a failure of this registry."""
    for error in (UpstreamUnreachable("cut", registry="source"), OSError(5, "disk"), ValueError("digest")):
        with pytest.raises(type(error)) as caught:
            await client.upload_blob(NAME, DIGEST, len(DATA), pieces(DATA[:500_000], error))
        assert caught.value is error
    assert not upstream.blobs_of(NAME)


@pytest.mark.parametrize(("size", "word"), [(len(DATA) - 1, "more"), (len(DATA) + 1, "less")])
async def test_a_source_of_another_size(
    upstream: FaultyRegistry, client: RegistryClient, size: int, word: str
) -> None:
    """Noticed at once: the registry would wait for the missing bytes until its time limit."""
    with pytest.raises(UpstreamInvalid, match=f"its source has {word} than the announced {size} bytes"):
        await client.upload_blob(NAME, DIGEST, size, pieces())
    assert not upstream.blobs_of(NAME)


async def test_a_refused_upload_is_cancelled(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """The registry need not keep it until it is purged."""
    upstream.fail("/uploads/", method="PUT", status=413)
    with pytest.raises(UpstreamRefused, match="413: FAULT: as instructed"):
        await client.upload_blob(NAME, DIGEST, len(DATA), pieces())
    assert upstream.requests["DELETE", f"{UPLOADS}1"] == 1
    assert upstream.received[-1].query["_state"] == "signed-state"


async def test_a_cancellation_that_fails_hides_no_error(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """The error is that of the upload."""
    upstream.fail("/uploads/", method="DELETE", status=405)
    with pytest.raises(UpstreamRefused, match="400: DIGEST_INVALID"):
        await client.upload_blob(NAME, Digest.of(b"other"), len(DATA), pieces())


ACCEPTED = b"HTTP/1.1 202 Accepted\r\nLocation: /v2/x\r\nContent-Length: 0\r\n\r\n"


async def test_a_peer_that_reads_nothing() -> None:
    """Its buffers are full; without a limit the upload would last as long as it stays connected."""
    ended = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ACCEPTED)
        await reader.readuntil(b"\r\n\r\n")
        await ended.wait()

    data = bytes(64 << 20)
    async with served(handle) as host:
        client = RegistryClient(parse_endpoint(f"http://{host}"), options=ClientOptions(read_timeout_s=0.1))
        try:
            with pytest.raises(UpstreamUnreachable, match=r"no progress for 0\.1 s"):
                await client.upload_blob(NAME, DIGEST, len(data), pieces(data))
        finally:
            ended.set()
            await client.close()


async def test_a_refusal_in_the_middle_of_an_upload() -> None:
    """A registry or its proxy refuses by the announced length, and reads no more of the body."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            writer.write(ACCEPTED)
            await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo big\n")
        while await reader.read(1 << 16):
            pass

    data = bytes(64 << 20)
    async with served(handle) as host:
        client = RegistryClient(parse_endpoint(f"http://{host}"))
        try:
            with pytest.raises(UpstreamRefused, match="PUT /v2/x: 413: too big"):
                await client.upload_blob(NAME, DIGEST, len(data), pieces(data))
        finally:
            await client.close()


async def test_a_registry_that_does_not_answer_an_upload(upstream: FaultyRegistry) -> None:
    """After the last byte the response is due."""
    gate = Gate()
    upstream.fail("/uploads/", method="PUT", hold=gate)
    client = RegistryClient(parse_endpoint(upstream.url), options=ClientOptions(read_timeout_s=0.1))
    try:
        with pytest.raises(UpstreamUnreachable, match=r"no progress for 0\.1 s"):
            await client.upload_blob(NAME, DIGEST, len(DATA), pieces())
    finally:
        gate.release()
        await client.close()


async def test_a_slow_source_is_no_stall(upstream: FaultyRegistry) -> None:
    """The source may be another registry, with time limits of its own."""
    client = RegistryClient(parse_endpoint(upstream.url), options=ClientOptions(read_timeout_s=0.05))

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[:10]
        await asyncio.sleep(0.15)
        yield DATA[10:]

    try:
        await client.upload_blob(NAME, DIGEST, len(DATA), slow())
    finally:
        await client.close()


async def test_a_cancelled_upload_ends_at_once(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """And its connection with it: the registry sees no complete body."""
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield DATA[:10]
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(client.upload_blob(NAME, DIGEST, len(DATA), endless()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not upstream.blobs_of(NAME)


async def test_a_cancelled_upload_leaves_its_source_to_be_closed(client: RegistryClient) -> None:
    """The library that sends reads the source in a task of its own; the caller closes it at once."""
    begun = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes]:
        yield DATA[:10]
        begun.set()
        await asyncio.Event().wait()

    source = slow()
    task = asyncio.create_task(client.upload_blob(NAME, DIGEST, len(DATA), source))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await source.aclose()


async def test_a_connection_that_breaks_during_an_upload(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A streamed body is never sent twice: its source has been read."""
    upstream.fail("/uploads/", method="PUT", disconnect=True)
    with pytest.raises(UpstreamUnreachable, match=f"PUT {UPLOADS}1"):
        await client.upload_blob(NAME, DIGEST, len(DATA), pieces())
    assert upstream.requests["PUT", f"{UPLOADS}1"] == 1


async def test_a_mount(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """Without a byte sent; a blob that the source has not is a 202, whose upload is cancelled."""
    upstream.add_blob(OTHER, DATA)
    assert await client.mount_blob(NAME, DIGEST, OTHER) is True
    assert upstream.received[-1].query == {"mount": DIGEST, "from": OTHER}
    assert upstream.blobs_of(NAME) == {DIGEST: DATA}
    assert await client.mount_blob(NAME, Digest.of(b"unknown"), OTHER) is False
    assert upstream.requests["DELETE", f"{UPLOADS}1"] == 1


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_refused_mount_is_followed_by_an_upload(
    upstream: FaultyRegistry, client: RegistryClient, status: int
) -> None:
    """The credentials may not be able to read the source, which the copy does not need."""
    upstream.fail("mount=", status=status)
    assert await client.mount_blob(NAME, DIGEST, OTHER) is False


async def test_a_mount_that_fails(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A registry that is down is no refusal."""
    upstream.fail("mount=", status=503)
    with pytest.raises(UpstreamUnreachable):
        await client.mount_blob(NAME, DIGEST, OTHER)


async def test_the_token_for_a_mount_covers_both_repositories() -> None:
    """A token server gives what it can; the registry decides."""
    async with FaultyRegistry(bearer=PAIR) as upstream:
        upstream.add_blob(OTHER, DATA)
        client = RegistryClient(parse_endpoint(upstream.url), StaticCredentials(*PAIR))
        try:
            assert await client.mount_blob(NAME, DIGEST, OTHER) is True
        finally:
            await client.close()
        assert list(upstream.tokens.values()) == [
            f"service=faulty&scope=repository:{NAME}:pull,push&scope=repository:{OTHER}:pull&account=user"
        ]


async def test_a_manifest_by_tag_and_by_digest(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """Byte for byte, with its type."""
    data = b'{"schemaVersion": 2}'
    digest = Digest.of(data)
    assert await client.put_manifest(NAME, parse_tag("1"), media.OCI_MANIFEST, data) == digest
    assert await client.put_manifest(NAME, digest, media.OCI_MANIFEST, data) == digest
    assert upstream.tags_of(NAME) == {"1": digest}
    assert upstream.received[0].headers["content-type"] == media.OCI_MANIFEST
    assert upstream.received[0].body == data
    long = Digest.of(data, "sha512")
    assert await client.put_manifest(NAME, long, media.OCI_MANIFEST, data) == long


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, UpstreamRefused), (403, UpstreamDenied), (413, UpstreamRefused), (500, UpstreamUnreachable)],
)
async def test_a_refused_manifest(
    upstream: FaultyRegistry, client: RegistryClient, status: int, kind: type[UpstreamError]
) -> None:
    """With the registry's words."""
    upstream.fail("/manifests/", status=status)
    with pytest.raises(kind, match=f"PUT /v2/{NAME}/manifests/1: {status}: FAULT: as instructed"):
        await client.put_manifest(NAME, parse_tag("1"), media.OCI_MANIFEST, b"{}")


async def test_a_manifest_that_the_registry_changed(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """Its digest is its identity: signatures refer to it."""
    upstream.fail("/manifests/", headers={"Docker-Content-Digest": DIGEST})
    with pytest.raises(UpstreamInvalid, match=f"stored as '{DIGEST}', not as {Digest.of(b'{}')}"):
        await client.put_manifest(NAME, parse_tag("1"), media.OCI_MANIFEST, b"{}")
