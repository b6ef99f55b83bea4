"""ASGI application for the tests of the HTTP/1.1 server: echoes requests, and misbehaves on request.

any other path   reads the body, records the request, answers 200 with it and its number in `seen` as JSON
/refuse          403 without reading the body
/first           200 after the first piece of the body
/size/N          N bytes with Content-Length, in pieces of 64 KiB
/stream/N        N pieces of 1 KiB without Content-Length
/file/N          N bytes of a file by `http.response.zerocopysend`; 503 when that is refused
/status/N        status N with a body of three bytes and its Content-Length
/short, /long    fewer, more bytes than Content-Length
/broken, /broken-late    raises before and after the head
/silent, /half   returns without an answer, and within one of unknown length
/wait, /hold     waits for `gate`: before reading the body; after half of the answer
/subject         the subject of the client's certificate
/meet/N          waits until N requests are there, then opens `gate` for all
/state           descriptors, tasks and resident memory of the process, as JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moorage.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

__all__ = ["Application", "Seen"]

_PIECE_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Seen:
    """One request that the application has read to its end."""

    method: str
    target: bytes
    version: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def short(self) -> tuple[str, bytes, bytes]:
        return self.method, self.target, self.body


@dataclass(repr=False)
class Application:
    """`begun` are targets of all requests, `clients` the addresses that they came from, in the same order.

    `seen` are requests that were read whole, `left` targets of those that were not; `ended` counts requests.

    `gate` opens what waits; `waiting` is set once a request has arrived there.  `keep_bodies` is off where bodies
    are large.
    """

    begun: list[bytes] = field(default_factory=list)
    clients: list[tuple[str, int]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    ended: int = 0
    keep_bodies: bool = True
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    met: int = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.begun.append(target)
        self.clients.append(scope["client"])
        self.running += 1
        name, _, rest = scope["path"].lstrip("/").partition("/")
        action = getattr(self, f"on_{name.replace('-', '_')}", self.on_echo)
        try:
            await action(rest, scope, receive, send)
        except OSError as error:
            self.errors.append(f"{target.decode()}: {type(error).__name__}")
            raise
        finally:
            self.ended += 1
            self.running -= 1

    async def body(self, scope: Any, receive: Receive) -> bytes | None:
        """Read the body to its end and record the request; None when the client has left before."""
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        parts: list[bytes] = []
        digest, size = hashlib.sha256(), 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                self.left.append(target)
                return None
            digest.update(message.get("body", b""))
            size += len(message.get("body", b""))
            if self.keep_bodies:
                parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        body = b"".join(parts) if self.keep_bodies else f"{size} {digest.hexdigest()}".encode()
        seen = Seen(
            scope["method"], target, scope["http_version"], tuple((n, v) for n, v in scope["headers"]), body
        )
        self.seen.append(seen)
        return body

    async def on_echo(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        body = await self.body(scope, receive)
        if body is None:
            return
        number = len(self.seen)
        text = {"method": scope["method"], "path": scope["path"], "size": len(body), "number": number}
        await reply(send, json.dumps(text).encode())

    async def on_refuse(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, b"refused", 403)

    async def on_first(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await reply(send, b"enough")

    async def on_size(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        left = int(rest)
        await send(start(200, (b"content-length", b"%d" % left)))
        while left > _PIECE_BYTES:
            await send({"type": "http.response.body", "body": zeros(_PIECE_BYTES), "more_body": True})
            left -= _PIECE_BYTES
        await send({"type": "http.response.body", "body": zeros(left)})

    async def on_stream(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(200))
        for _ in range(int(rest)):
            await send({"type": "http.response.body", "body": zeros(1024), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def on_file(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(int(rest))
            await send(start(200, (b"content-length", rest.encode())))
            part = {"type": "http.response.zerocopysend", "file": file, "offset": 0, "count": int(rest)}
            try:
                await send(part)
            except Unavailable as error:
                await reply(send, str(error).encode(), 503)

    async def on_status(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, b"abc", int(rest))

    async def on_short(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-length", b"100")))
        await send({"type": "http.response.body", "body": b"ten bytes."})

    async def on_long(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-length", b"5")))
        await send({"type": "http.response.body", "body": b"ten bytes."})

    async def on_broken(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken on purpose")

    async def on_broken_late(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(200))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("broken on purpose")

    async def on_silent(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        """Return without an answer."""

    async def on_half(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(200))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    async def on_wait(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        self.waiting.set()
        await self.gate.wait()
        await self.on_echo(rest, scope, receive, send)

    async def on_meet(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        self.met += 1
        if self.met >= int(rest.partition("/")[0]):
            self.gate.set()
        await self.on_wait(rest, scope, receive, send)

    async def on_hold(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-length", b"8")))
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        self.waiting.set()
        await self.gate.wait()
        await send({"type": "http.response.body", "body": b"rest"})

    async def on_subject(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        await reply(send, scope["moorage.transfer"].tls_subject.encode())

    async def on_state(self, rest: str, scope: Any, receive: Receive, send: Send) -> None:
        gc.collect()
        await reply(send, json.dumps(state()).encode())


def state() -> dict[str, int]:
    """Return descriptors, tasks and resident KiB of this process; "anonymous" are those without files' pages."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  names only
        "tasks": len(asyncio.all_tasks()),
        "resident_kib": int(rollup.partition("Rss:")[2].split()[0]),
        "anonymous_kib": int(rollup.partition("Anonymous:")[2].split()[0]),
    }


def zeros(size: int) -> bytes:
    """Return zeros in memory of their own, all of it resident, as the pieces of files and stores are."""
    return bytes(bytearray(size))


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


async def reply(send: Send, body: bytes, status: int = 200) -> None:
    with contextlib.suppress(ConnectionError):
        await send(start(status, (b"content-length", b"%d" % len(body))))
        await send({"type": "http.response.body", "body": body})
