"""A server on loopback for programs that insist on a cloud's own names: a proxy that takes every name for it.

    program --HTTPS_PROXY--> CONNECT name:443 --> TLS, with a certificate for `name` --> 127.0.0.1:PORT

The certificate is of an authority of its own, which programs in Go believe for SSL_CERT_FILE's sake.  Nothing is
written to /etc/hosts, and nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Cloud", "a_cloud"]

_READ_BYTES: Final = 1 << 16
_LIMIT_S: Final = 30.0


@dataclass(frozen=True)
class Cloud:
    """`environment` is what a program needs to find it; `named` collects the names that were asked for."""

    environment: dict[str, str]
    named: list[str]


@contextmanager
def a_cloud(folder: Path, port: int, *names: str) -> Iterator[Cloud]:
    """All of `names`, which may begin with `*.`, are the HTTP server on 127.0.0.1:`port`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "cloud.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    running, named = _Running(), list[str]()
    thread = threading.Thread(target=asyncio.run, args=(_serve(running, named, context, port),), daemon=True)
    thread.start()
    try:
        if not running.up.wait(_LIMIT_S):
            raise AssertionError("the cloud did not begin")
        proxy = f"http://127.0.0.1:{running.port}"
        yield Cloud({"HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(folder / "cloud.pem")}, named)
    finally:
        running.end()
        thread.join(_LIMIT_S)


class _Running:
    def __init__(self) -> None:
        self.up, self.port = threading.Event(), 0
        self.loop: asyncio.AbstractEventLoop | None = None
        self.over: asyncio.Event | None = None

    def end(self) -> None:
        if self.loop is not None and self.over is not None:
            self.loop.call_soon_threadsafe(self.over.set)


async def _serve(running: _Running, named: list[str], context: ssl.SSLContext, port: int) -> None:
    """Until `running.over`; connections that are open then are cut."""
    busy: set[asyncio.Task[None]] = set()

    async def inside(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _joined(reader, writer, port)

    inner = await asyncio.start_server(inside, "127.0.0.1", 0, ssl=context)
    inner_port = inner.sockets[0].getsockname()[1]

    async def outside(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, name, *_ = head.split(b" ")
            if method != b"CONNECT":
                writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            named.append(name.decode())
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _joined(reader, writer, inner_port)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the program has gone away
        finally:
            busy.discard(task)
            writer.close()

    outer = await asyncio.start_server(outside, "127.0.0.1", 0)
    running.port = outer.sockets[0].getsockname()[1]
    running.loop, running.over = asyncio.get_running_loop(), asyncio.Event()
    running.up.set()
    await running.over.wait()
    for server in (outer, inner):
        server.close()
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)


async def _joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Both ways between a connection and a port, until either side ends."""
    there, back = await asyncio.open_connection("127.0.0.1", port)
    ways = [asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (back, writer):
            end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
