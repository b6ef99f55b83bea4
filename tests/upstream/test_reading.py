"""Manifests and blobs of a registry in memory, and each way in which reading them fails."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from tests.upstream.faulty import FaultyRegistry, Gate
from tests.upstream.faulty_http import raw_server

from moorage.registry import media
from moorage.types import Digest, parse_repo_name, parse_tag
from moorage.upstream.client import MANIFEST_LIMIT_BYTES, RegistryClient, RemoteManifest
from moorage.upstream.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnreachable,
)
from moorage.upstream.reference import parse_endpoint
from moorage.upstream.transport import ClientOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = parse_repo_name("library/app")
TAG = parse_tag("1")
LAYER = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry() as registry:
        registry.add_image(NAME, TAG, [LAYER])
        yield registry


@pytest.fixture
async def client(upstream: FaultyRegistry) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(parse_endpoint(upstream.url), options=ClientOptions(read_timeout_s=5))
    yield client
    await client.close()


async def read_into(pieces: list[bytes], client: RegistryClient, digest: Digest) -> None:
    """Read a blob; the pieces are kept if that fails."""
    async with client.open_blob(NAME, digest) as blob:
        async for chunk in blob:
            pieces.append(chunk)  # noqa: PERF401  those before a failure count


async def read_blob(client: RegistryClient, digest: Digest, start: int = 0) -> bytes:
    async with client.open_blob(NAME, digest, start=start) as blob:
        return b"".join([chunk async for chunk in blob])


async def test_a_manifest_by_tag_and_by_digest(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """Metadata by HEAD, bytes by GET, both of the same manifest."""
    digest = Digest.parse(upstream.tags_of(NAME)[TAG])
    data = upstream.manifest_of(NAME, digest)
    assert await client.stat_manifest(NAME, TAG) == RemoteManifest(digest, media.OCI_MANIFEST, len(data))
    for reference in (TAG, digest):
        manifest = await client.get_manifest(NAME, reference)
        assert (manifest.digest, manifest.media_type, manifest.data) == (digest, media.OCI_MANIFEST, data)
    assert upstream.requests["GET", f"/v2/{NAME}/manifests/{TAG}"] == 1
    assert upstream.received[0].headers["accept"].count(",") == 3
    assert upstream.received[0].headers["accept-encoding"] == "identity"


async def test_a_head_without_a_digest_is_answered_by_the_manifest(
    upstream: FaultyRegistry, client: RegistryClient
) -> None:
    """Some registries send no digest with HEAD, or refuse HEAD."""
    digest = Digest.parse(upstream.tags_of(NAME)[TAG])
    upstream.fail("/manifests/", method="HEAD", headers={"Docker-Content-Digest": "none"}, times=1)
    assert (await client.stat_manifest(NAME, TAG)).digest == digest
    upstream.fail("/manifests/", method="HEAD", status=405, times=1)
    assert (await client.stat_manifest(NAME, TAG)).digest == digest
    assert upstream.requests["GET", f"/v2/{NAME}/manifests/{TAG}"] == 2


async def test_a_blob_is_streamed_and_a_part_of_it(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A download that broke continues where it ended."""
    digest = upstream.add_blob(NAME, LAYER)
    assert await client.stat_blob(NAME, digest) == len(LAYER)
    async with client.open_blob(NAME, digest) as blob:
        assert (blob.size, blob.start) == (len(LAYER), 0)
        assert b"".join([chunk async for chunk in blob]) == LAYER
    async with client.open_blob(NAME, digest, start=1000) as blob:
        assert (blob.size, blob.start) == (len(LAYER), 1000)
        assert b"".join([chunk async for chunk in blob]) == LAYER[1000:]


async def test_a_registry_without_ranges_sends_the_whole_blob(
    upstream: FaultyRegistry, client: RegistryClient
) -> None:
    """The caller must see it, or it would append the beginning to the end."""
    digest = upstream.add_blob(NAME, b"content")
    upstream.fail("/blobs/", status=200, body=b"content")
    async with client.open_blob(NAME, digest, start=3) as blob:
        assert (blob.size, blob.start) == (7, 0)
        assert b"".join([chunk async for chunk in blob]) == b"content"


@pytest.mark.parametrize(
    "content_range",
    ["bytes 2-6/7", "bytes 3-5/7", "", "bytes x"],
)
async def test_another_range_than_the_requested_one_is_refused(
    upstream: FaultyRegistry, client: RegistryClient, content_range: str
) -> None:
    """Bytes of another place would end in a blob of another digest, after the whole transfer."""
    digest = upstream.add_blob(NAME, b"content")
    upstream.fail("/blobs/", status=206, body=b"tent", headers={"Content-Range": content_range})
    with pytest.raises(UpstreamInvalid, match="Content-Range"):
        await read_blob(client, digest, 3)


async def test_a_blob_without_a_length(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A chunked body has its end, but no size before it."""
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fail("/blobs/", length=-1)
    async with client.open_blob(NAME, digest) as blob:
        assert blob.size is None
        assert b"".join([chunk async for chunk in blob]) == LAYER


@pytest.mark.parametrize("length", [None, -1, 2 << 20], ids=["cut", "chunked", "longer-announced"])
async def test_a_cut_body_is_worth_a_retry(
    upstream: FaultyRegistry, client: RegistryClient, length: int | None
) -> None:
    """The bytes that came are delivered first, so that the reader can continue from there."""
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fail("/blobs/", cut_after=70_000, length=length)
    received: list[bytes] = []
    with pytest.raises(UpstreamUnreachable, match="closed in the middle of the body"):
        await read_into(received, client, digest)
    assert b"".join(received) == LAYER[:70_000]


async def test_a_longer_body_than_announced_is_invalid(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A partial response of a known size must not bring more bytes than that."""
    digest = upstream.add_blob(NAME, b"content")
    upstream.fail("/blobs/", extra=b" and more", length=-1)
    with pytest.raises(UpstreamInvalid, match="longer than the announced 4 bytes"):
        await read_blob(client, digest, 3)


async def test_a_shorter_body_than_announced_is_cut(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """Of a partial, chunked response, whose framing ends as it should."""
    digest = upstream.add_blob(NAME, b"content")
    upstream.fail("/blobs/", status=206, body=b"ten", length=-1, headers={"Content-Range": "bytes 3-6/7"})
    with pytest.raises(UpstreamUnreachable, match="ended 1 bytes before the announced 4"):
        await read_blob(client, digest, 3)


async def test_bytes_after_the_body_harm_no_later_request(
    upstream: FaultyRegistry, client: RegistryClient
) -> None:
    """They are seen with the body, and refused, or later, and end the connection; never the next response."""
    digest = upstream.add_blob(NAME, b"content")
    upstream.fail("/blobs/", length=3, times=1)
    with contextlib.suppress(UpstreamInvalid):
        assert await read_blob(client, digest) == b"con"
    assert await read_blob(client, digest) == b"content"


async def test_leaving_a_blob_early_harms_no_later_request(
    upstream: FaultyRegistry, client: RegistryClient
) -> None:
    """The connection is closed: its remaining bytes are those of no response."""
    digest = upstream.add_blob(NAME, LAYER)
    async with client.open_blob(NAME, digest) as blob:
        async for _ in blob:
            break
    assert await read_blob(client, digest) == LAYER


async def test_errors_of_the_caller_pass_unchanged(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """A full disk of the reader is no failure of the registry."""
    digest = upstream.add_blob(NAME, LAYER)

    async def fail(error: Exception) -> None:
        async with client.open_blob(NAME, digest) as blob:
            async for _ in blob:
                raise error

    for error in (OSError(28, "No space left on device"), ValueError("x"), TimeoutError()):
        with pytest.raises(type(error)) as caught:
            await fail(error)
        assert caught.value is error


async def test_a_corrupt_manifest_is_refused(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """By the digest in the request, and by the announced one."""
    digest = Digest.parse(upstream.tags_of(NAME)[TAG])
    upstream.fail("/manifests/", corrupt_at=20)
    for reference in (TAG, digest):
        with pytest.raises(UpstreamInvalid, match=f"has the digest sha256:[0-9a-f]+, not {digest}"):
            await client.get_manifest(NAME, reference)


async def test_a_manifest_of_sha512_is_proved_by_it(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """The algorithm is that of the reference, else of the announced digest."""
    data = upstream.manifest_of(NAME, upstream.tags_of(NAME)[TAG])
    digest = Digest("sha512", hashlib.sha512(data).hexdigest())
    upstream.fail("/manifests/", status=200, body=data, headers={"Docker-Content-Digest": digest})
    assert (await client.get_manifest(NAME, digest)).digest == digest
    assert (await client.get_manifest(NAME, TAG)).digest == digest


@pytest.mark.parametrize("length", [None, -1], ids=["announced", "chunked"])
async def test_a_huge_manifest_is_not_read(
    upstream: FaultyRegistry, client: RegistryClient, length: int | None
) -> None:
    """A registry must not fill the memory with a manifest: little more than the limit is read."""
    digest = upstream.add_manifest(NAME, b" " * (64 << 20), tag="huge")
    upstream.fail("/manifests/", method="GET", length=length)
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamInvalid, match="over the limit of 4 MiB"):
            await client.get_manifest(NAME, digest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MANIFEST_LIMIT_BYTES
    with pytest.raises(UpstreamInvalid, match="over the limit of 4 MiB"):
        await client.stat_manifest(NAME, parse_tag("huge"))


async def test_a_manifest_of_an_unknown_type_is_read_by_its_bytes(
    upstream: FaultyRegistry, client: RegistryClient
) -> None:
    """Registries of static files send application/octet-stream."""
    upstream.fail("/manifests/", headers={"Content-Type": "application/octet-stream"})
    assert (await client.get_manifest(NAME, TAG)).media_type == media.OCI_MANIFEST
    assert (await client.stat_manifest(NAME, TAG)).media_type == media.OCI_MANIFEST


@pytest.mark.parametrize("body", [b"<html>", b'{"schemaVersion": 1, "name": "app"}', b"[]", b""])
async def test_what_is_no_manifest_is_refused(
    upstream: FaultyRegistry, client: RegistryClient, body: bytes
) -> None:
    """A login page of a proxy with status 200, a manifest of schema 1."""
    upstream.fail("/manifests/", status=200, body=body, headers={"Content-Type": "text/html"})
    with pytest.raises(UpstreamInvalid, match="'text/html' is not a supported manifest"):
        await client.get_manifest(NAME, TAG)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, UpstreamMissing),
        (429, UpstreamRateLimited),
        (400, UpstreamRefused),
        (451, UpstreamRefused),
        (500, UpstreamUnreachable),
        (503, UpstreamUnreachable),
        (204, UpstreamInvalid),
        (304, UpstreamInvalid),
    ],
)
async def test_statuses_become_errors(
    upstream: FaultyRegistry, client: RegistryClient, status: int, kind: type[UpstreamError]
) -> None:
    """With the registry's host, its status, its code and its words."""
    upstream.fail("/manifests/", status=status)
    with pytest.raises(UpstreamError) as caught:
        await client.get_manifest(NAME, TAG)
    assert type(caught.value) is kind
    assert (caught.value.registry, caught.value.status) == (upstream.host, status)
    if status not in {204, 304}:
        assert (caught.value.codes, caught.value.words) == (("FAULT",), "as instructed")
        assert str(caught.value) == (
            f"{upstream.host}: GET /v2/{NAME}/manifests/{TAG}: {status}: FAULT: as instructed"
        )


async def test_words_of_a_registry_are_one_short_line(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """They end up in logs and terminals."""
    upstream.fail("/manifests/", status=500, body=b"first\nline \x1b[31m \xff" + b"x" * 100_000, times=1)
    with pytest.raises(UpstreamUnreachable) as caught:
        await client.get_manifest(NAME, TAG)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    upstream.fail("/manifests/", status=502, body=b"<html>Bad gateway</html>")
    with pytest.raises(UpstreamUnreachable, match=r"manifests/1: 502$"):
        await client.get_manifest(NAME, TAG)


async def test_a_connection_that_was_closed_while_idle(upstream: FaultyRegistry, client: RegistryClient) -> None:
    """The request is sent once more: the registry has not seen it."""
    upstream.fail("/v2/", method="GET", disconnect_after=True, times=1)
    await client.ping()
    await client.get_manifest(NAME, TAG)


async def test_a_connection_that_is_closed_without_a_response(
    upstream: FaultyRegistry, client: RegistryClient
) -> None:
    """Sent once more, then an error."""
    upstream.fail("/manifests/", disconnect=True)
    with pytest.raises(UpstreamUnreachable, match="closed before a response came"):
        await client.get_manifest(NAME, TAG)
    assert upstream.requests["GET", f"/v2/{NAME}/manifests/{TAG}"] == 2


@pytest.mark.parametrize("hold_at", [None, 70_000], ids=["head", "body"])
async def test_a_registry_that_falls_silent(upstream: FaultyRegistry, hold_at: int | None) -> None:
    """Before the head, and in the middle of a body."""
    gate = Gate()
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fail("/blobs/", hold=gate, hold_at=hold_at)
    client = RegistryClient(parse_endpoint(upstream.url), options=ClientOptions(read_timeout_s=0.05))
    try:
        with pytest.raises(UpstreamUnreachable, match=r"nothing received for 0\.05 s"):
            await read_blob(client, digest)
    finally:
        gate.release()
        await client.close()


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 abc\r\n\r\n", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nA b\r\n\r\n"]
)
async def test_what_is_not_http_is_invalid(head: bytes) -> None:
    """The port of another service."""
    async with raw_server(head) as host:
        client = RegistryClient(parse_endpoint(f"http://{host}"))
        try:
            with pytest.raises(UpstreamInvalid, match="not valid HTTP"):
                await client.ping()
        finally:
            await client.close()
