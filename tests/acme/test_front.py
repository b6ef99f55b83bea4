"""The registry's own sockets while its workers leave them alone."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from structlog.testing import capture_logs
from tests.acme.certificates import Authority

from moorage.acme import pem
from moorage.acme.front import Front

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path


class Place:
    """A front, the socket it stands before, and a worker behind it that answers as `serve` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.behind = socket.create_server(("127.0.0.1", 0))
        self.front = Front(self.answer, int(self.behind.getsockname()[1]), self.note)
        self.worker: asyncio.Server | None = None
        self.clients: dict[int, tuple[str, int]] = {}
        self.noted: list[tuple[str, int]] = []

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def answer(self, host: str) -> Path | None:
        return self.folder / f"{host}+token" if host == "r.test" else None

    def note(self, port: int, client: tuple[str, int] | None) -> None:
        if client is None:
            del self.clients[port]
        else:
            self.clients[port] = client
            self.noted.append(client)

    def open(self, *, relaying: bool) -> None:
        self.front.open([self.listening.dup()], relaying=relaying)

    async def work(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        (self.folder / "worker").write_bytes(self.authority.issue("r.test"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "worker")
        self.worker = await asyncio.start_server(serve, sock=self.behind, ssl=context)

    async def call(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.authority.client(), server_hostname="r.test"
        )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    made.front.shut()
    made.listening.close()
    if made.worker is None:
        made.behind.close()
    else:
        made.worker.close()


def in_thread(work: Callable[[], bytes]) -> Coroutine[None, None, bytes]:
    return asyncio.to_thread(work)


def prove(port: int, host: str | None) -> bytes:
    """What an authority does: the certificate that it is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["acme-tls/1"])
    with (
        socket.create_connection(("127.0.0.1", port), 20) as plain,
        context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False) as connection,
    ):
        connection.do_handshake()
        assert connection.selected_alpn_protocol() == "acme-tls/1"
        return connection.getpeercert(binary_form=True) or b""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.mark.parametrize("relaying", [True, False])
async def test_an_authority_sees_what_it_wants_to_see(place: Place, relaying: bool) -> None:
    """Before the first certificate as well as at each renewal."""
    (place.folder / "r.test+token").write_bytes(pem.challenge_certificate("r.test", "t.h", datetime.now(UTC)))
    place.open(relaying=relaying)
    shown = x509.load_der_x509_certificate(await in_thread(lambda: prove(place.port, "R.TEST")))
    found = shown.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")).value
    assert isinstance(found, x509.UnrecognizedExtension)
    assert found.value.endswith(hashlib.sha256(b"t.h").digest())


@pytest.mark.parametrize("host", ["r.test", "other.test", "worker", None])
async def test_without_a_challenge_there_is_no_answer(place: Place, host: str | None) -> None:
    """And no name leads to another file."""
    (place.folder / "worker+token").write_bytes(place.authority.issue("r.test"))
    place.open(relaying=True)
    with capture_logs() as lines, pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await in_thread(lambda: prove(place.port, host))
    assert lines[0]["event"] == "asked by acme-tls/1 for a host that no order is under way for"


async def test_before_there_is_a_certificate_clients_are_told(place: Place) -> None:
    """An alert, not a connection that hangs; and one line of the log, not thousands."""
    place.open(relaying=False)
    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
                await place.call()
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
    assert [line["event"] for line in lines] == ["clients are refused until there is a certificate"]


async def test_others_are_passed_on_whole(place: Place) -> None:
    """Both ways at once, more than any buffer holds."""
    await place.work(echo)
    place.open(relaying=True)
    reader, writer = await place.call()
    sent = os.urandom(8 << 20)

    async def send() -> None:
        for start in range(0, len(sent), 100_000):
            writer.write(sent[start : start + 100_000])
            await writer.drain()

    sending = asyncio.create_task(send())
    assert await reader.readexactly(len(sent)) == sent
    await sending
    assert place.noted == list(place.clients.values()) == [writer.get_extra_info("sockname")]
    writer.close()


async def test_the_workers_last_words_arrive(place: Place) -> None:
    """An answer that ends the connection is read to its end, however slowly."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"?")
        writer.write(b"x" * (4 << 20))
        await writer.drain()
        writer.close()

    await place.work(serve)
    place.open(relaying=True)
    reader, writer = await place.call()
    writer.write(b"?")
    size = 0
    while data := await reader.read(1 << 16):
        size += len(data)
        await asyncio.sleep(0)
    assert size == 4 << 20
    writer.close()


async def test_what_is_passed_on_goes_on_when_the_sockets_are_left(place: Place) -> None:
    """A pull that began within the seconds of a renewal may last for hours."""
    await place.work(echo)
    place.open(relaying=True)
    reader, writer = await place.call()
    place.front.drain()
    assert not place.front.is_open
    writer.write(b"still there?")
    assert await reader.readexactly(12) == b"still there?"
    writer.close()


async def test_leaving_takes_what_waits(place: Place) -> None:
    """The workers hear only of connections that come later; these would wait for ever."""
    await place.work(echo)
    place.open(relaying=True)
    # Nothing is accepted while this does not await.
    waiting = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(5)]
    place.front.drain()
    place.listening.setblocking(False)
    with pytest.raises(BlockingIOError):
        place.listening.accept()

    def talk(plain: socket.socket) -> bytes:
        with place.authority.client().wrap_socket(plain, server_hostname="r.test") as connection:
            connection.sendall(b"hello")
            return connection.recv(5)

    for plain in waiting:
        assert await in_thread(lambda plain=plain: talk(plain)) == b"hello"  # type: ignore[misc]


async def test_what_is_no_tls_is_passed_on_as_it_is(place: Place) -> None:
    """A worker knows what to answer to plain HTTP."""
    got = asyncio.Queue[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await got.put(await reader.read(100))
        writer.write(b"no")
        writer.close()

    place.worker = await asyncio.start_server(serve, sock=place.behind)
    place.open(relaying=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.read() == b"no"
    assert await got.get() == b"GET / HTTP/1.1\r\n\r\n"
    writer.close()


async def test_clients_that_leave_leave_nothing(place: Place) -> None:
    """In the middle of their first word, of a challenge, or of what is passed on."""
    (place.folder / "r.test+token").write_bytes(pem.challenge_certificate("r.test", "t.h", datetime.now(UTC)))
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    await place.work(serve)
    place.open(relaying=True)
    for begun in (b"", b"\x16\x03\x01"):
        plain = socket.create_connection(("127.0.0.1", place.port))
        plain.sendall(begun)
        plain.close()
    _, writer = await place.call()
    writer.close()
    async with asyncio.timeout(20):
        await ended.wait()
        while place.front.connections:  # noqa: ASYNC110  tasks of its own
            await asyncio.sleep(0.005)
    assert place.noted
    assert place.clients == {}
