"""The clients of a soak: each scenario is a few requests, whole or broken off, on connections of its own.

A scenario that ends well asserts the statuses and sizes of its answers; one that is broken off asserts nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.server.http1.generator import mutated, stream
from tests.server.http1.peer import Peer
from tests.server.http1.tls_peer import TlsPeer

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.server.http1.soak_servers import Target

__all__ = ["Actor", "Skimmed", "scenarios", "skim"]

_NO_BODY: Final = {204, 304}
_PIECE_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Skimmed:
    """An answer without its body."""

    status: int
    size: int
    headers: dict[str, str]


@dataclass
class Actor:
    """One client, with a random source of its own.  `requests` counts those that were sent."""

    name: str
    target: Target
    source: random.Random
    requests: int = 0

    def chance(self, probability: float) -> bool:
        return self.source.random() < probability

    async def connect(self, *, receive_bytes: int = 0) -> Peer:
        return await self.target.connect(receive_bytes=receive_bytes)

    async def send(self, peer: Peer, method: str, target: str, *headers: str, data: bytes = b"") -> bool:
        """Send the head of a request, and bytes behind it."""
        self.requests += 1
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *headers]
        return await peer.send("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + data)

    async def ask(self, peer: Peer, method: str, target: str, *headers: str, data: bytes = b"") -> Skimmed:
        """Send a request with an optional body of known length, and read the answer."""
        if data or method in {"POST", "PUT", "PATCH"}:
            headers = (*headers, f"Content-Length: {len(data)}")
        await self.send(peer, method, target, *headers)
        await peer.send(data)
        return await skim(peer, method)

    async def leave(self, peer: Peer) -> None:
        """End the connection in one of the ways in which clients do."""
        way = self.source.randrange(4)
        if way == 0:
            peer.abort()
            return
        if way == 1:
            peer.half_close()
            await self.pause(0.01)
        peer.close()

    async def pause(self, longest_s: float) -> None:
        await asyncio.sleep(self.source.random() * longest_s)

    def chunks(self, data: bytes) -> bytes:
        """Return the body in chunks of random sizes."""
        out, at = [], 0
        while at < len(data):
            size = self.source.choice((1, 100, 4096, 32 << 10, 100_000))
            piece = data[at : at + size]
            out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
            at += size
        return b"".join((*out, b"0\r\n\r\n"))


async def skim(peer: Peer, method: str = "GET") -> Skimmed:
    """Read one answer and drop its body.  Raises ConnectionResetError when the connection ends before."""
    while True:
        status, headers = await _read_head(peer)
        if status >= 200:
            break
    if method == "HEAD" or status in _NO_BODY:
        return Skimmed(status, 0, headers)
    if headers.get("transfer-encoding") == "chunked":
        size = 0
        while count := int(await _read_line(peer), 16):
            await _drop(peer, count + 2)
            size += count
        assert await _read_line(peer) == b""
        return Skimmed(status, size, headers)
    size = int(headers["content-length"])
    await _drop(peer, size)
    return Skimmed(status, size, headers)


async def _read_head(peer: Peer) -> tuple[int, dict[str, str]]:
    first = (await _read_line(peer)).decode()
    headers = {}
    while line := await _read_line(peer):
        name, _, text = line.decode().partition(": ")
        headers[name.lower()] = text
    assert first.startswith("HTTP/1.1 "), first
    return int(first[9:12]), headers


async def _read_line(peer: Peer) -> bytes:
    while b"\r\n" not in peer.received:
        await _receive(peer)
    line, _, peer.received = peer.received.partition(b"\r\n")
    return line


async def _drop(peer: Peer, size: int) -> None:
    while size > len(peer.received):
        size -= len(peer.received)
        peer.received = b""
        await _receive(peer)
    peer.received = peer.received[size:]


async def _receive(peer: Peer) -> None:
    if not await peer.receive(_PIECE_BYTES):
        raise ConnectionResetError("the connection ended within an answer")


async def _read_away(peer: Peer) -> None:
    """Read to the end of the connection."""
    while await peer.receive(_PIECE_BYTES):
        peer.received = b""


# Downloads


async def small(actor: Actor) -> None:
    """Some small requests on one connection."""
    async with await actor.connect() as peer:
        for _ in range(actor.source.randrange(1, 12)):
            method = "HEAD" if actor.chance(0.4) else "GET"
            answer = await actor.ask(peer, method, actor.target.small[actor.source.randrange(5)])
            assert answer.status == 200, answer


async def file(actor: Actor) -> None:
    async with await actor.connect() as peer:
        answer = await actor.ask(peer, "GET", actor.target.file)
        assert (answer.status, answer.size) == (200, actor.target.file_bytes), answer


async def leave_download(actor: Actor) -> None:
    """Break a download off somewhere."""
    peer = await actor.connect()
    try:
        await actor.send(peer, "GET", actor.target.large)
        left = actor.source.choice((0, 1, 1000, 50_000, 500_000))
        while left > 0 and (data := await peer.receive(_PIECE_BYTES)):
            left -= len(data)
            peer.received = b""
        await actor.leave(peer)
    finally:
        peer.close()


async def read_slowly(actor: Actor) -> None:
    """Take small pieces of a large answer now and then, and leave."""
    peer = await actor.connect(receive_bytes=4096)
    try:
        await actor.send(peer, "GET", actor.target.large)
        for _ in range(actor.source.randrange(1, 20)):
            await actor.pause(0.1)
            if not await peer.receive(2000):
                break
        await actor.leave(peer)
    finally:
        peer.close()


async def half_close(actor: Actor) -> None:
    """Shut down the sending side behind the request; the answer still comes."""
    target, size = actor.source.choice(((actor.target.small[1], 0), (actor.target.file, actor.target.file_bytes)))
    async with await actor.connect() as peer:
        await actor.send(peer, "GET", target)
        peer.half_close()
        answer = await skim(peer)
        assert answer.status == 200, answer
        assert answer.size == size or not size, answer
        assert await peer.receive() == b""


async def pipeline(actor: Actor) -> None:
    """Many requests in one write, and all answers."""
    count = actor.source.choice((2, 5, 30, 200))
    methods = [actor.source.choice(("GET", "HEAD")) for _ in range(count)]
    targets = [actor.source.choice(actor.target.small) for _ in methods]
    async with await actor.connect() as peer:
        await peer.send(_pipelined(actor, methods, targets))
        for method in methods:
            answer = await skim(peer, method)
            assert answer.status == 200, answer


async def leave_pipeline(actor: Actor) -> None:
    """Many requests in one write, of whose answers some are read."""
    count = actor.source.choice((2, 5, 30, 200))
    targets = [actor.source.choice((*actor.target.small, actor.target.file)) for _ in range(count)]
    read = actor.source.randrange(min(count, 5))
    # With a small buffer a whole file takes minutes.
    peer = await actor.connect(receive_bytes=0 if read else 4096)
    try:
        await peer.send(_pipelined(actor, ["GET"] * count, targets))
        for _ in range(read):
            await skim(peer)
        await actor.leave(peer)
    finally:
        peer.close()


def _pipelined(actor: Actor, methods: list[str], targets: list[str]) -> bytes:
    actor.requests += len(methods)
    pairs = zip(methods, targets, strict=True)
    return b"".join(f"{m} {t} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for m, t in pairs)


# Connections


async def idle(actor: Actor) -> None:
    """A connection that does little for a while."""
    async with await actor.connect() as peer:
        await actor.pause(0.5)
        if actor.chance(0.7):
            answer = await actor.ask(peer, "GET", actor.target.small[0])
            assert answer.status == 200, answer
            await actor.pause(1.0)


async def malformed(actor: Actor) -> None:
    """Bytes that are nearly requests; the connection ends."""
    source = actor.source
    actor.requests += 1
    data = mutated(source) if actor.chance(0.5) else stream(source, source.choice((0.02, 0.1, 0.3)))
    async with await actor.connect() as peer:
        await peer.send(data)
        peer.half_close()
        try:
            await _read_away(peer)
        except TimeoutError as error:
            raise AssertionError(f"the connection does not end after {data!r}") from error


async def large_head(actor: Actor) -> None:
    """A head above the limits is refused."""
    async with await actor.connect() as peer:
        line, status = actor.source.choice((("/" + "x" * 20_000, 414), ("/", 431)))
        headers = ["X: " + "y" * 90_000] if status == 431 else []
        await actor.send(peer, "GET", line, *headers)
        assert (await skim(peer)).status == status


async def stall(actor: Actor) -> None:
    """Stop in the middle of anything, before a server with short timeouts: it ends the connection."""
    head = b"POST / HTTP/1.1\r\nHost: h\r\n"
    sized, chunked = head + b"Content-Length: %d\r\n\r\n", head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"
    data = actor.source.choice((b"", b"GET", head, sized % 9 + b"ab", chunked, sized % 0))
    actor.requests += 1
    if actor.chance(0.3):
        # A port with TLS gets bytes without TLS as well.
        peer: Peer | None = await Peer.connect(actor.target.impatient)
    else:
        peer = await _impatient(actor)
    if peer is not None:
        async with peer:
            await peer.send(data)
            await _read_away(peer)


async def stall_reading(actor: Actor) -> None:
    """Do not read an answer; the server with short timeouts ends the connection."""
    target = actor.source.choice(("/file/50000000", "/size/50000000", "/stream/50000"))
    if (peer := await _impatient(actor)) is not None:
        async with peer:
            await actor.send(peer, "GET", target)
            await actor.pause(3.0)


async def _impatient(actor: Actor) -> Peer | None:
    """Connect to the server with short timeouts; None when it did not wait for the handshake."""
    if actor.target.context is None:
        return await Peer.connect(actor.target.impatient)
    try:
        return await TlsPeer.open(actor.target.impatient, actor.target.context)
    except (ConnectionError, ssl.SSLError):
        return None


async def fail_handshake(actor: Actor) -> None:
    """A TLS handshake that fails in one of many ways."""
    context = actor.target.context
    assert context is not None
    actor.requests += 1
    way = actor.source.randrange(5)
    if way < 2:
        await _fail_in_openssl(actor, trusts=way == 1)
        return
    async with await Peer.connect(actor.target.port) as raw:
        if way == 2:
            await raw.send(actor.source.randbytes(actor.source.randrange(1, 2000)))
            raw.half_close()
            await _read_away(raw)
            return
        if way == 3:
            await actor.send(raw, "GET", "/")
            assert (await skim(raw)).status == 400
            return
        hello = client_hello(context)
        await raw.send(hello[: actor.source.randrange(len(hello) + 1)])
        await actor.pause(0.05)
        await actor.leave(raw)


async def _fail_in_openssl(actor: Actor, *, trusts: bool) -> None:
    """Handshake without the authority, or without a suite that the server has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusts:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        # The server's key is on a curve, not RSA.
        context.set_ciphers("AES128-GCM-SHA256")
    try:
        peer = await TlsPeer.open(actor.target.port, context)
    except (ssl.SSLError, ConnectionResetError):
        return
    peer.close()
    raise AssertionError("a handshake without trust or without a common suite was completed")


async def break_tls(actor: Actor) -> None:
    """Bytes that are no record, behind a good handshake."""
    assert actor.target.context is not None
    async with await TlsPeer.open(actor.target.port, actor.target.context) as peer:
        if actor.chance(0.5):
            await actor.send(peer, "GET", actor.target.file)
        await peer.send_raw(actor.source.randbytes(actor.source.randrange(1, 100)))
        await actor.pause(0.05)
        await actor.leave(peer)


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return the first bytes of a handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server was completed")


# Bodies, to the application of the tests


async def body(actor: Actor) -> None:
    """Send a body with its length or in chunks, with and without `Expect`, and read the answer."""
    data = bytes(actor.source.choice((0, 1, 1000, 70_000, 600_000)))
    async with await actor.connect() as peer:
        for _ in range(actor.source.randrange(1, 4)):
            expect = ("Expect: 100-continue",) if data and actor.chance(0.3) else ()
            if actor.chance(0.5):
                answer = await actor.ask(peer, "PUT", "/x", *expect, data=data)
            else:
                await actor.send(peer, "POST", "/x", "Transfer-Encoding: chunked", *expect)
                await peer.send(actor.chunks(data))
                answer = await skim(peer)
            assert answer.status == 200, answer


async def write_slowly(actor: Actor) -> None:
    pieces = actor.source.randrange(1, 10)
    async with await actor.connect() as peer:
        await actor.send(peer, "POST", "/x", f"Content-Length: {1000 * pieces}")
        for _ in range(pieces):
            await actor.pause(0.05)
            await peer.send(bytes(1000))
        assert (await skim(peer)).status == 200


async def leave_body(actor: Actor) -> None:
    """Break an upload off somewhere."""
    peer = await actor.connect()
    try:
        if actor.chance(0.5):
            data = bytes(actor.source.randrange(500_000))
            await actor.send(peer, "PUT", "/x", "Content-Length: 500000", data=data)
        else:
            data = actor.chunks(bytes(500_000))
            cut = actor.source.randrange(len(data))
            await actor.send(peer, "PUT", "/x", "Transfer-Encoding: chunked", data=data[:cut])
        await actor.leave(peer)
    finally:
        peer.close()


async def misbehave(actor: Actor) -> None:
    """Requests that the application answers wrongly, early or not at all."""
    target = actor.source.choice(("/broken", "/broken-late", "/silent", "/short", "/long", "/refuse", "/first"))
    async with await actor.connect() as peer:
        await actor.send(peer, "POST", target, "Content-Length: 100000", "Connection: close")
        await peer.send(bytes(100_000))
        await _read_away(peer) if actor.chance(0.5) else await actor.leave(peer)


_COMMON: Final[tuple[tuple[Callable[[Actor], Awaitable[None]], int], ...]] = (
    (small, 8), (file, 2), (leave_download, 3), (read_slowly, 1), (half_close, 2), (pipeline, 2),
    (leave_pipeline, 1), (idle, 1), (malformed, 4), (large_head, 1),
)  # fmt: skip
_TLS: Final = ((fail_handshake, 3), (break_tls, 1))
_BARE: Final = ((body, 4), (write_slowly, 1), (leave_body, 3), (misbehave, 2), (stall, 1), (stall_reading, 1))


def scenarios(target: Target) -> tuple[list[Callable[[Actor], Awaitable[None]]], list[int]]:
    """Return what is done at a target, with weights."""
    from tests.server.http1.soak_pushes import PUSHES

    found = (*_COMMON, *(_TLS if target.context else ()), *(PUSHES if target.is_registry else _BARE))
    return [scenario for scenario, _ in found], [weight for _, weight in found]
