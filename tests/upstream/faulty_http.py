"""HTTP of the registry in memory: its faults, and the reading and writing of one request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

__all__ = ["LIMIT_S", "Fault", "Gate", "ReceivedRequest", "Response", "raw_server"]
__all__ += ["read_request", "send_response", "served"]

LIMIT_S: Final = 30.0
_PIECE_BYTES: Final = 1 << 16
_WITHOUT_BODY: Final = frozenset({204, 304})
_REASONS: Final = {200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content"}


class Gate:
    """Holds a response until it is released; safe to use from another thread than the server's."""

    def __init__(self) -> None:
        self.reached: Final = threading.Event()
        self._released = threading.Event()
        self._wakers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def release(self) -> None:
        """Let the responses that wait go on, and all later ones."""
        self._released.set()
        for loop, event in self._wakers:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(event.set)

    async def entered(self) -> None:
        """Wait until a response waits here."""
        async with asyncio.timeout(LIMIT_S):
            while not self.reached.is_set():  # noqa: ASYNC110  the server may be in another thread
                await asyncio.sleep(0.001)

    async def wait(self) -> None:
        """Wait until the test releases the gate; called by the server."""
        event = asyncio.Event()
        self._wakers.append((asyncio.get_running_loop(), event))
        self.reached.set()
        if not self._released.is_set():
            await event.wait()


@dataclass
class Fault:
    """A fault of the responses to requests that match; see the module docstring.

    status, headers, body    replace the response; with `status` alone the body is that of an error
    hold, hold_at            wait at a gate before the head, or after `hold_at` bytes of the body
    cut_after                close the connection after that many bytes of the body
    corrupt_at               invert the byte at that offset of the body
    length                   announce this Content-Length; -1: none, the body is chunked
    extra                    bytes that follow the body
    throttle                 bytes per second of the body
    disconnect               close the connection without a response
    disconnect_after         close the connection after the response, which announces that it stays open
    """

    path: str = ""
    method: str | None = None
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hold: Gate | None = None
    hold_at: int | None = None
    cut_after: int | None = None
    corrupt_at: int | None = None
    length: int | None = None
    extra: bytes = b""
    throttle: float | None = None
    disconnect: bool = False
    disconnect_after: bool = False
    used: int = 0

    def matches(self, method: str, target: str) -> bool:
        return (
            (self.times is None or self.used < self.times)
            and self.method in {None, method}
            and self.path in target
        )


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as it was received; names of headers in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@contextlib.asynccontextmanager
async def served(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Yield `127.0.0.1:PORT` of a server whose connections are closed after `handle`, and awaited at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(OSError):
            try:
                await handle(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        if tasks:
            await asyncio.wait(tasks, timeout=LIMIT_S)


@contextlib.asynccontextmanager
async def raw_server(reply: bytes | None) -> AsyncIterator[str]:
    """Yield `127.0.0.1:PORT` of a server that sends `reply` to the first bytes of a connection and closes it.

    None: it accepts connections and stays silent.
    """

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if reply is None:
            await reader.read()
        writer.write(reply or b"")

    async with served(handle) as host:
        yield host


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ReceivedRequest | None:
    """Read a request; None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("expect") == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readline()).strip() or b"0", 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return ReceivedRequest(method, target, headers, body)


async def send_response(
    response: Response, fault: Fault, writer: asyncio.StreamWriter, *, with_body: bool
) -> bool:
    """Send a response with its fault; return whether the connection stays open."""
    chunked = fault.length == -1
    headers = {"Content-Length": str(len(response.body)), **response.headers}
    if chunked:
        del headers["Content-Length"]
        headers["Transfer-Encoding"] = "chunked"
    elif fault.length is not None:
        headers["Content-Length"] = str(fault.length)
    lines = [f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    whole = True
    if with_body and response.status not in _WITHOUT_BODY:
        whole = await _send_body(response.body + fault.extra, fault, writer, chunked=chunked)
    await writer.drain()
    stays = fault.length is None or chunked
    return whole and stays and not fault.extra and not fault.disconnect_after


async def _send_body(body: bytes, fault: Fault, writer: asyncio.StreamWriter, *, chunked: bool) -> bool:
    """Send a body with its faults; return whether all of it was sent."""
    end = len(body) if fault.cut_after is None else min(fault.cut_after, len(body))
    stops = sorted({*range(0, end, _PIECE_BYTES), end, *([fault.hold_at] if fault.hold_at is not None else [])})
    for start, stop in zip(stops, [*stops[1:], end], strict=True):
        if fault.hold is not None and fault.hold_at == start:
            await writer.drain()
            await fault.hold.wait()
        piece = body[start : min(stop, end)]
        if piece:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
        if fault.throttle is not None:
            await asyncio.sleep(len(piece) / fault.throttle)
    if end < len(body):
        return False
    if chunked:
        writer.write(b"0\r\n\r\n")
    return True
