"""Memory of the server under clients that use much of it, measured in a process of its own.

The bounds are those of the docstring of `connection.py`, once for each client, and `_SLACK_MIB` for the allocator.
With TLS each connection has two buffers of OpenSSL more, which keep the size that they once had.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import TYPE_CHECKING, Final

import pytest
from tests.server.http1.application import _PIECE_BYTES as APPLICATION_BYTES
from tests.server.http1.measured import measured

from moorage.server.http1.connection import _PIECES_LIMIT_BYTES, _WRITE_LIMIT_BYTES
from moorage.server.http1.file_sender import _PIECE_BYTES as FILE_BYTES
from moorage.server.http1.server import _BUFFER_BYTES as READ_BYTES
from moorage.server.http1.tls_connection import _BIO_BYTES, _WRITE_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.server.http1.measured import Measured, State
    from tests.server.http1.peer import Peer

pytestmark = pytest.mark.slow

TLS: Final = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
MIB: Final = 1 << 20
IDLE: Final = 1000
CLIENTS: Final = 100
STILL: Final = 10
"""Equal answers of /state after which bytes are taken to rest."""

_DESCRIPTORS: Final = 2 * IDLE + 500
_SLACK_MIB: Final = 8.0
_TLS_BYTES: Final = (_BIO_BYTES + _WRITE_BYTES) * 4 // 3 + (20 << 10)
"""Of a connection that has been read and written: both buffers, and the connection's state."""

_REQUESTS: Final = 10_000
GET: Final = "GET {} HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Allow as many descriptors as the system does; the measured process inherits the limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    assert before[1] == resource.RLIM_INFINITY or before[1] >= _DESCRIPTORS, (
        "the hard limit of descriptors is too low"
    )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def clients(served: Measured, count: int, *, tls: bool, receive_bytes: int = 0) -> AsyncIterator[list[Peer]]:
    """Connect, and close at the end of the block."""
    made: list[Peer] = []
    try:
        while len(made) < count:
            made.append(await served.connect(tls=tls, receive_bytes=receive_bytes))
        yield made
    finally:
        for peer in made:
            peer.close()


async def warm(served: Measured, *, tls: bool) -> State:
    """Use everything once, so that what is made at the first use does not count; return the state."""
    for target in ("/", "/size/200000", "/stream/100", "/file/200000"):
        async with clients(served, 4, tls=tls) as peers:
            for peer in peers:
                await peer.send(f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
                await peer.read_to_end()
    return await served.until(lambda now: now.connections == 0, "no connection")


async def at_rest(served: Measured, reached: str, count: int) -> State:
    """Wait until `count` connections have `reached` a state and no byte moves any more; return the state."""
    last = -1
    same = 0

    def rests(now: State) -> bool:
        nonlocal last, same
        same = same + 1 if last == now.sent else 0
        last = now.sent
        return getattr(now, reached) >= count and same >= STILL

    return await served.until(rests, f"{count} connections {reached}, and no progress")


def check_bound(before: State, now: State, each_bytes: int) -> None:
    """Hold the growth to so many bytes for each of `CLIENTS`."""
    assert grown_mib(before, now) < CLIENTS * each_bytes / MIB + _SLACK_MIB


def grown_mib(before: State, now: State) -> float:
    # Without pages of files, which the system drops and reads again as it likes.
    return (now.anonymous_kib - before.anonymous_kib) / 1024


@TLS
async def test_a_thousand_idle_connections(tls: bool, tmp_path: Path) -> None:
    """Clients keep connections open; each of them must cost little."""
    async with measured(tmp_path) as served:
        before = await warm(served, tls=tls)
        async with clients(served, IDLE, tls=tls) as peers:
            for peer in peers:
                await peer.send(GET.format("/").encode())
                assert (await peer.read_answer()).status == 200
            now = await served.until(lambda now: now.connections >= IDLE, "the connections")
    assert now.idle >= IDLE
    assert grown_mib(before, now) < (30 if tls else 20)


@TLS
@pytest.mark.parametrize("target", ["/size/50000000", "/stream/50000", "/file/50000000"])
async def test_a_hundred_slow_readers(tls: bool, target: str, tmp_path: Path) -> None:
    """Memory holds what is written ahead, never the answer; others are answered meanwhile."""
    bound, stuck = _WRITE_LIMIT_BYTES + APPLICATION_BYTES, "writing_paused"
    if target.startswith("/file"):
        bound, stuck = tls * FILE_BYTES, "sending_files"
    async with measured(tmp_path) as served:
        before = await warm(served, tls=tls)
        async with clients(served, CLIENTS, tls=tls, receive_bytes=4096) as peers:
            for peer in peers:
                await peer.send(GET.format(target).encode())
            now = await at_rest(served, stuck, CLIENTS)
            assert now.running == CLIENTS
            assert len(await served.ask("/size/100000")) == 100_000
            assert len(await served.ask("/file/1000000")) == 1_000_000
    check_bound(before, now, bound + tls * _TLS_BYTES)


@TLS
async def test_a_hundred_writers_to_an_application_that_does_not_read(tls: bool, tmp_path: Path) -> None:
    """A slow store slows its clients, and their bodies do not pile up."""
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    bound = _PIECES_LIMIT_BYTES + READ_BYTES
    async with measured(tmp_path) as served:
        before = await warm(served, tls=tls)
        async with clients(served, CLIENTS, tls=tls) as peers:
            for peer in peers:
                await peer.send(b"POST /wait HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            writers = [asyncio.create_task(write_on(peer, chunk)) for peer in peers]
            now = await at_rest(served, "reading_paused", CLIENTS)
            assert now.running == CLIENTS
            assert len(await served.ask("/size/100000")) == 100_000
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
    check_bound(before, now, bound + tls * _TLS_BYTES)


async def write_on(peer: Peer, data: bytes) -> None:
    """Send until cancelled."""
    while True:
        assert await peer.send(data)


@TLS
async def test_ten_thousand_pipelined_requests_whose_answers_are_not_read(tls: bool, tmp_path: Path) -> None:
    """A client that asks ahead and reads nothing must not fill memory with answers, nor with requests."""
    request = GET.format("/size/10000").encode()
    async with measured(tmp_path) as served:
        before = await warm(served, tls=tls)
        async with clients(served, 1, tls=tls, receive_bytes=4096) as (peer,):
            writer = asyncio.create_task(peer.send(request * _REQUESTS))
            now = await at_rest(served, "writing_paused", 1)
            assert now.begun - before.begun < _REQUESTS // 2
            assert len(await served.ask("/size/100000")) == 100_000
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
    assert grown_mib(before, now) < 4
