"""HTTP-01: a listener on port 80 that answers challenges and redirects all other requests to HTTPS.

It reads from the directory, so any node answers for all.  One request per connection, of bounded size; nothing
else of the registry is reachable here. Source: RFC 8555 section 8.3; `autocert.Manager.HTTPHandler`
(golang.org/x/crypto) for the redirects.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

    from moorage.acme.store import CertificateStore

__all__ = ["HttpChallenges"]

_PREFIX: Final = "/.well-known/acme-challenge/"
_HEAD_BYTES: Final = 16 << 10
_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 256
_WORDS: Final = {200: "OK", 302: "Found", 400: "Bad Request", 404: "Not Found"}


class HttpChallenges:
    """`public` is the URL of the registry for clients; empty: the host of the request, on port 443."""

    def __init__(self, store: CertificateStore, hosts: tuple[str, ...], public: str) -> None:
        self._store = store
        self._hosts = hosts
        self._public = public.rstrip("/")
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def start(self, listening: socket.socket) -> asyncio.Server:
        return await asyncio.start_server(self._serve, sock=listening, limit=_HEAD_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that leaves, is slow or sends too much gets no response.
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with self._places, asyncio.timeout(_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head.decode("latin-1")))
                await writer.drain()
        writer.close()

    async def _answer(self, head: str) -> bytes:
        first, *lines = head.split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.rpartition(" ")
        if not version.startswith("HTTP/1.") or not target.startswith("/"):
            return _response(400, b"expected HTTP/1.1\n")
        if target.startswith(_PREFIX):
            found = await asyncio.to_thread(self._store.http_answer, target.removeprefix(_PREFIX))
            return _response(404, b"no such challenge\n") if found is None else _response(200, found)
        if method not in {"GET", "HEAD"}:
            return _response(400, b"use HTTPS\n")
        host = _host(lines)
        if host not in self._hosts:
            return _response(404, b"no such host\n")
        if any(ord(letter) <= ord(" ") or ord(letter) > ord("~") for letter in target):
            return _response(400, b"expected a path\n")
        return _response(302, b"use HTTPS\n", location=f"{self._public or f'https://{host}'}{target}")


def _host(lines: list[str]) -> str:
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() == "host":
            return value.strip().partition(":")[0].lower()
    return ""


def _response(status: int, body: bytes, *, location: str = "") -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_WORDS[status]}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *([f"Location: {location}"] if location else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
