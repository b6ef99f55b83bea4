"""TLS handshakes that fail, stall or are too many, and connections that break afterwards: what is logged."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from structlog.testing import capture_logs
from tests.server.http1.harness import running, until
from tests.server.http1.peer import LIMIT_S
from tests.server.http1.tls_client import (
    ALERT,
    TLS12,
    TLS13,
    alert_of,
    client_hello,
    provider,
    shake,
    split,
    trusting,
)
from tests.server.http1.tls_peer import TlsPeer

from moorage.server.http1 import server as server_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.certs import Holder

    from moorage.server.tls.provider import Certificates

SHORT_S: Final = 0.2
FAILED: Final = "TLS handshake failed"
OMITTED: Final = "similar lines were left out"
RECORD: Final = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.fixture
def certificates(tmp_path: Path, ca: Holder) -> Certificates:
    return provider(tmp_path, ca.issue("registry.test"))


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


class Clock:
    """The seconds by which the server limits its log."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: self.now, time=time.time))


# What is logged


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03",
        b"\x16\x03\x01\xff\xff" + bytes(100), b"\x16\x09\x01\x00\x05" + bytes(100), b"\x16" + b"SSH-2.0\r\n" * 9,
        b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x03", b"\x16\x03\x01\x00\x02\x01\x00\x15\x03\x01\x00\x02\x02\x32",
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 2])
async def test_a_malformed_client_hello_is_logged_with_its_reason(
    tmp_path: Path, ca: Holder, lines: list[Any], data: bytes, count: int
) -> None:
    """OpenSSL judges it, and sends the alert that TLS prescribes, or none for what is not TLS at all."""
    certificates = provider(tmp_path, *(ca.issue(f"{number}.test") for number in range(count)))
    async with running(tls=certificates) as served, await served.connect() as peer:
        await peer.send(data)
        received = await peer.read_to_end()
        assert received[:1] in {b"", bytes([ALERT])}
    (line,) = lines
    assert (line["event"], line["remote"], line["log_level"]) == (FAILED, "127.0.0.1", "info")
    assert line["reason"]


@pytest.mark.parametrize("length", [1, 40, -1])
async def test_a_client_that_leaves_is_logged(certificates: Certificates, lines: list[Any], length: int) -> None:
    data = client_hello(b"h.test")
    async with running(tls=certificates) as served, await served.connect() as peer:
        await peer.send(data if length < 0 else data[:length])
        peer.half_close()
        await peer.read_to_end()
    reason = "the client closed the connection during the handshake"
    assert [(line["event"], line["remote"], line["reason"]) for line in lines] == [(FAILED, "127.0.0.1", reason)]


async def test_a_health_check_that_only_connects_is_not_logged(
    certificates: Certificates, lines: list[Any]
) -> None:
    """Load balancers do so every few seconds."""
    async with running(tls=certificates) as served:
        async with await served.connect() as peer:
            peer.half_close()
            await peer.read_to_end()
        await until(lambda: not served.server.connections, "the connection to be forgotten")
        assert not served.server.handshakes
    assert lines == []


async def test_a_client_that_refuses_the_certificate_is_logged(
    certificates: Certificates, lines: list[Any]
) -> None:
    """The most frequent failure: the client does not know the authority."""
    async with running(tls=certificates) as served:
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            await shake(served, ssl.create_default_context())
        await until(lambda: lines, "a line in the log")
    assert [(line["event"], line["reason"]) for line in lines] == [(FAILED, "tlsv1 alert unknown ca")]


async def test_a_reset_during_the_handshake_disturbs_nothing(
    certificates: Certificates, ca: Holder, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(tls=certificates) as served:
        for data in (b"", b"\x16", client_hello()[:50], client_hello()):
            peer = await served.connect()
            await peer.send(data)
            await until(lambda: served.server.connections, "the connection")
            peer.abort()
            await until(lambda: not served.server.connections, "its end")
        assert (await shake(served, trusting(ca))).status == 200
        assert served.server.handshakes == {}
    assert capfd.readouterr().err == ""


async def test_lines_of_failures_are_limited(
    certificates: Certificates, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any client can cause them.  The number of the others is logged also when no failure follows."""
    clock = Clock(monkeypatch)
    async with running(tls=certificates) as served:
        for _ in range(50):
            async with await served.connect() as peer:
                await peer.send(client_hello(b"h.test", "h2"))
                assert alert_of(await peer.read_to_end()) == 120
        assert [line["event"] for line in lines] == [FAILED] * 5
        clock.now += 1
        await until(lambda: len(lines) > 5, "the number of lines that were left out")
        assert [(line["event"], line.get("lines")) for line in lines[5:]] == [(OMITTED, 45)]
        async with await served.connect() as peer:
            await peer.send(client_hello(b"h.test", "h2"))
            await peer.read_to_end()
        clock.now += 5
        async with await served.connect() as peer:
            await peer.send(client_hello(b"h.test", "h2"))
            await peer.read_to_end()
    assert [line["event"] for line in lines[6:]] == [FAILED] * 2


# Time and number


@pytest.mark.parametrize("length", [0, 1, 5, 100, -1])
async def test_a_handshake_that_stalls_is_ended(certificates: Certificates, lines: list[Any], length: int) -> None:
    """Nothing, parts of a ClientHello, and all of it without the rest of the handshake."""
    data = client_hello(b"registry.test", "http/1.1")
    sent = data if length < 0 else data[:length]
    async with running(tls=certificates, handshake_timeout_s=SHORT_S) as served, await served.connect() as peer:
        await peer.send(sent)
        received = await peer.read_to_end()
        assert bool(received) == (length < 0)
        await until(lambda: not served.server.connections, "the end of the connection")
        assert served.server.handshakes == {}
    assert [(line["event"], line["remote"], line["reason"]) for line in lines] == [
        (FAILED, "127.0.0.1", f"not complete within {SHORT_S:g} s")
    ]


async def test_a_handshake_byte_by_byte_has_no_more_time(certificates: Certificates, lines: list[Any]) -> None:
    """Each byte would extend a timeout of silence."""
    data = split(client_hello(b"registry.test"), *[1] * 100)
    async with running(tls=certificates, handshake_timeout_s=SHORT_S) as served, await served.connect() as peer:
        await until(lambda: served.server.connections, "the connection")
        # Half of the message is never sent.
        for byte in data[: len(data) // 2]:
            if not served.server.connections or not await peer.send(bytes([byte])):
                break
            await asyncio.sleep(SHORT_S / 20)
        await until(lambda: not served.server.connections, "the end of the connection")
    assert [line["reason"] for line in lines] == [f"not complete within {SHORT_S:g} s"]


async def test_the_timeout_ends_with_the_handshake(certificates: Certificates, ca: Holder) -> None:
    """From then on a client has the time of HTTP."""
    async with (
        running(
            tls=certificates,
            handshake_timeout_s=LIMIT_S,
            header_timeout_s=10 * LIMIT_S,
            idle_timeout_s=20 * LIMIT_S,
        ) as served,
        await TlsPeer.open(served.port, trusting(ca)) as client,
    ):
        (connection,) = served.server.connections
        await until(lambda: not served.server.handshakes, "the end of the handshake")
        assert connection.deadline > served.server.loop.time() + 5 * LIMIT_S
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.receive()).startswith(b"HTTP/1.1 200 ")
        assert connection.deadline > served.server.loop.time() + 15 * LIMIT_S


async def test_clients_that_stall_do_not_keep_others_out(
    certificates: Certificates, ca: Holder, lines: list[Any]
) -> None:
    """Of 256 pending handshakes the oldest makes way for a new one."""
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(running(tls=certificates, handshake_timeout_s=10 * LIMIT_S))
        handshakes = served.server.handshakes
        stalled = []
        for number in range(300):
            stalled.append(await stack.enter_async_context(await served.connect()))
            await stalled[-1].send(client_hello(b"registry.test", "http/1.1")[: number % 3 * 50])
        for peer in stalled[:44]:
            assert await peer.read_to_end() == b""
        await until(lambda: len(served.server.connections) == len(handshakes) == 256, "256 handshakes")
        assert (await shake(served, trusting(ca))).status == 200
        # One more made way, and the others still wait.
        assert await stalled[44].read_to_end() == b""
        assert len(handshakes) == 255
    too_many = "too many concurrent TLS handshakes; the oldest one is aborted"
    assert {line["event"] for line in lines} <= {too_many, OMITTED}
    assert too_many in {line["event"] for line in lines}


# After the handshake


@pytest.mark.parametrize(
    ("garbage", "alert"), [(RECORD, "BAD_RECORD_MAC"), (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", ".")]
)
@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("target", ["", "/wait", "/hold"])
async def test_bytes_that_are_not_tls_end_the_connection(
    certificates: Certificates, ca: Holder, lines: list[Any], garbage: bytes, alert: str,
    version: ssl.TLSVersion, target: str,
) -> None:  # fmt: skip
    """Idle, before an answer and within one; the client gets an alert, and the application notices the end."""
    async with running(tls=certificates) as served:
        async with await TlsPeer.open(served.port, trusting(ca, version=version)) as client:
            if target:
                await client.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
                await served.app.waiting.wait()
            await client.send_raw(garbage)
            with pytest.raises(ssl.SSLError, match=alert):
                await client.read_to_close_notify()
        await until(lambda: not served.server.connections, "the end of the connection")
        served.app.gate.set()
        await until(lambda: served.app.ended == bool(target), "the end of the request")
        assert served.app.begun == [target.encode()][: bool(target)]
    (line,) = lines
    assert (line["event"], line["remote"]) == ("TLS failed", "127.0.0.1")
    assert line["reason"]


async def test_garbage_during_a_download_ends_the_connection_after_it(
    certificates: Certificates, ca: Holder, lines: list[Any]
) -> None:
    """A thread encrypts the file meanwhile, and nothing is read."""
    size = 8 << 20
    async with running(tls=certificates) as served:
        async with await TlsPeer.open(served.port, trusting(ca)) as client:
            await client.send(f"GET /file/{size} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            await client.receive()
            await client.send_raw(RECORD)
            with pytest.raises(ssl.SSLError):
                await client.read_to_close_notify()
        await until(lambda: not served.server.connections, "the end of the connection")
        assert client.received_bytes > size
    assert [line["event"] for line in lines] == ["TLS failed"]
