"""TLS while a thread owns the connection: what a client sends, or leaves, in the middle of a file."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
from tests.server.http1.application import state
from tests.server.http1.harness import running, until
from tests.server.http1.peer import LIMIT_S
from tests.server.http1.tls_client import Certificate
from tests.server.http1.tls_peer import TlsPeer

from moorage.server.http1.tls_connection import TlsConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.server.http1.harness import Running

SIZE: Final = 24 << 20
"""More than all buffers between server and client hold."""

FILE: Final = b"GET /file/%d HTTP/1.1\r\nHost: h\r\n\r\n" % SIZE
GET: Final = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
SHORT_S: Final = 0.2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def served(certificate: Certificate) -> AsyncIterator[Running]:
    """A server that must be as it was before when the test ends."""
    async with running(tls=certificate) as server:
        async with await connected(server.port, certificate) as peer:  # what lasts is made: threads, buffers
            await peer.send(b"GET /file/10 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            await peer.read_to_end()
        await until(lambda: not server.server.connections, "the connection to be forgotten")
        before = state()
        yield server
        await until(lambda: not server.server.connections, "the connections to be forgotten")
        await until(lambda: not server.app.running, "the application to return")
        for name in ("descriptors", "tasks"):
            await until(lambda name=name: state()[name] <= before[name], f"{name} to come back")  # type: ignore[misc]


async def connected(port: int, certificate: Certificate, *, receive_bytes: int = 0) -> TlsPeer:
    """Return a client after its handshake."""
    return await TlsPeer.open(port, certificate.client, "registry.test", receive_bytes=receive_bytes)


async def downloading(served: Running, certificate: Certificate, *, behind: bytes = b"") -> TlsPeer:
    """Return a client that has read the first bytes of a file, while a thread owns the server's connection."""
    peer = await connected(served.port, certificate, receive_bytes=1 << 16)
    await peer.send(FILE + behind)
    await peer.read_until(b"\r\n\r\n")
    (connection,) = served.server.connections
    assert isinstance(connection, TlsConnection)
    await until(lambda: connection._thread_owns_tls, "the thread to own the connection")
    return peer


async def complete(peer: TlsPeer) -> None:
    """Read the file to its end, and take its response off what was received."""
    head, _, begun = peer.received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    left = SIZE - len(begun)
    while left > 0:
        peer.received = b""
        data = await peer.receive()
        assert data, f"the connection ended {left} bytes early"
        assert not data[:left].strip(b"\0"), "the file is corrupted"
        left -= len(data)
    peer.received = peer.received[len(peer.received) + left :] if left else b""


async def is_answered(served: Running, certificate: Certificate) -> None:
    """Assert that the server answers on another connection."""
    async with await connected(served.port, certificate) as other:
        await other.send(GET)
        assert (await other.read_answer()).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 5, 3 << 20], ids=["GET", "a small body", "a large body"])
async def test_a_request_behind_a_file_is_answered_after_it(
    served: Running, certificate: Certificate, size: int
) -> None:
    """Its records wait in the kernel: two threads in one TLS object would corrupt the file."""
    request = b"POST /next HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size if size else GET
    async with await downloading(served, certificate) as peer:
        sending = asyncio.ensure_future(peer.send(request + bytes(size)))
        await is_answered(served, certificate)
        await complete(peer)
        assert await sending
        answer = await peer.read_answer()
        method = request.partition(b" ")[0]
        assert answer.status == 200
        assert answer.body.startswith(b'{"method": "%s", "path": "/next", "size": %d, ' % (method, size))


@pytest.mark.slow
async def test_half_of_a_request_behind_a_file_waits_for_the_other_half(
    served: Running, certificate: Certificate
) -> None:
    """It has come in the same record as the request for the file."""
    async with await downloading(served, certificate, behind=GET[:10]) as peer:
        await complete(peer)
        await peer.send(GET[10:])
        assert (await peer.read_answer()).status == 200


@pytest.mark.slow
async def test_a_closing_alert_within_a_file_ends_the_connection_after_it(
    served: Running, certificate: Certificate
) -> None:
    """RFC 8446 section 6.1: the other direction stays open, so the file must be sent."""
    async with await downloading(served, certificate) as peer:
        await peer.send_close_notify()
        await is_answered(served, certificate)
        assert any(isinstance(each, TlsConnection) and each._thread_owns_tls for each in served.server.connections)
        await complete(peer)
        assert await peer.receive() == b""
        assert (peer.received, peer.closed, peer.reset) == (b"", True, False)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["RST", "close", "records that are none"])
async def test_a_client_that_leaves_within_a_file(served: Running, certificate: Certificate, how: str) -> None:
    """Neither the thread nor what belongs to the connection is kept."""
    async with await downloading(served, certificate) as peer:
        if how == "RST":
            peer.abort()
        elif how == "close":
            peer.close()
        else:
            # Noticed after the file, which arrives whole.
            await peer.send_raw(b"\xff" * 1000)
            await complete(peer)
            with pytest.raises(ssl.SSLError, match="ALERT"):
                await peer.receive()
        await until(lambda: not served.server.connections, "the connection to be forgotten")
        await is_answered(served, certificate)
    assert "/file" in served.app.errors[-1] if how != "records that are none" else not served.app.errors


@pytest.mark.slow
@pytest.mark.parametrize("target", [b"/file/%d" % SIZE, b"/size/%d" % SIZE])
async def test_a_client_that_reads_too_slowly_is_disconnected(certificate: Certificate, target: bytes) -> None:
    """`http.sendtimeout` and `http.leastrate` hold for encrypted bytes as for others."""
    async with running(tls=certificate, send_timeout_s=SHORT_S) as served:
        peer = await connected(served.port, certificate, receive_bytes=4096)
        async with peer:
            await peer.send(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target)
            await until(lambda: served.app.errors, "the answer to be broken off")
            await until(lambda: not served.server.connections, "the client to be disconnected")
            await is_answered(served, certificate)
    (error,) = served.app.errors
    assert error.startswith(target.decode())


@pytest.mark.slow
@pytest.mark.parametrize("target", [b"/file/%d" % (10 * SIZE), b"/size/%d" % (10 * SIZE)])
async def test_a_client_that_reads_below_the_least_rate_is_disconnected(
    certificate: Certificate, target: bytes
) -> None:
    """A byte now and then would keep a thread's job, a file and a connection for ever."""
    async with running(tls=certificate, send_timeout_s=SHORT_S, least_rate=1 << 40) as served:  # noqa: SIM117
        async with await connected(served.port, certificate, receive_bytes=4096) as peer:
            await peer.send(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % target)
            while not served.app.errors:
                peer.received = b""
                await peer.receive(4096)
                await asyncio.sleep(0.01)
            await until(lambda: not served.server.connections, "the client to be disconnected")
    (error,) = served.app.errors
    assert error.startswith(target.decode())


@pytest.mark.slow
async def test_a_client_that_reads_with_pauses_gets_everything(certificate: Certificate) -> None:
    """Any rate above `http.leastrate` will do, also while most of the file waits in buffers."""
    async with running(tls=certificate, send_timeout_s=LIMIT_S, least_rate=1) as served:
        peer = await connected(served.port, certificate, receive_bytes=1 << 16)
        async with peer:
            await peer.send(FILE)
            for _ in range(20):
                await peer.receive()
                await asyncio.sleep(0.02)
            await complete(peer)


@pytest.mark.slow
async def test_a_client_that_sends_too_slowly_is_refused(certificate: Certificate) -> None:
    """It would hold an upload and its lock for ever."""
    async with running(tls=certificate, body_timeout_s=SHORT_S) as served:  # noqa: SIM117
        async with await connected(served.port, certificate) as peer:
            await peer.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nhello")
            await until(lambda: served.app.errors, "the upload to be broken off")
            await peer.read_to_end()
            await is_answered(served, certificate)
    assert served.app.errors == ["/x: TimeoutError"]
    assert served.app.seen[-1].target == b"/next"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl")
async def test_a_key_update_within_a_file_is_answered_after_it(served: Running, certificate: Certificate) -> None:
    """Its answer would be written between the records of the file; both sides continue with their new keys."""
    client = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-tls1_3", "-brief",
        "-CAfile", certificate.path, "-verify_return_error",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stderr is not None
    try:
        async with asyncio.timeout(2 * LIMIT_S):
            await client.stderr.readuntil(b"Protocol version: TLSv1.3\n")
            client.stdin.write(FILE)
            await client.stdout.readuntil(b"\r\n\r\n")
            (connection,) = served.server.connections
            assert isinstance(connection, TlsConnection)
            await until(lambda: connection._thread_owns_tls, "the thread to own the connection")
            for _ in range(3):
                client.stdin.write(b"K\n")
                await client.stderr.readuntil(b"KEYUPDATE\n")
            assert connection._thread_owns_tls
            assert not (await client.stdout.readexactly(SIZE)).strip(b"\0")
            client.stdin.write(GET)
            assert (await client.stdout.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            assert b'"path": "/next"' in await client.stdout.readuntil(b"}")
            client.stdin.close()
            await client.wait()
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    assert not served.app.errors
