"""The listener on port 80."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from moorage.acme.http01 import HttpChallenges
from moorage.acme.store import CertificateStore, prepare

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@contextlib.asynccontextmanager
async def listening(folder: Path, public: str = "") -> AsyncIterator[int]:
    prepare(str(folder))
    store = CertificateStore(str(folder))
    store.put_http_answer("token", "token.thumb")
    store.put_certificate(["r.test"], b"secret")
    bound = socket.create_server(("127.0.0.1", 0))
    server = await HttpChallenges(store, ("r.test", "s.test"), public).start(bound)
    try:
        yield int(bound.getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


async def ask(port: int, request: str) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode("latin-1"))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
    assert int(headers["content-length"]) == len(body)
    assert headers["connection"] == "close"
    return int(first.split()[1]), headers, body


def get(path: str, host: str = "r.test", method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: x\r\n\r\n"


async def test_a_challenge_is_answered_to_whoever_asks(tmp_path: Path) -> None:
    """By any name: authorities use the host's, a load balancer's check an address."""
    async with listening(tmp_path) as port:
        for host in ("r.test", "10.0.0.1:80"):
            status, _, body = await ask(port, get("/.well-known/acme-challenge/token", host))
            assert (status, body) == (200, b"token.thumb")


@pytest.mark.parametrize("token", ["other", "../r.test", "%2e%2e/r.test", "..%2fr.test", "", "token+http-01"])
async def test_nothing_else_of_the_directory_is_shown(tmp_path: Path, token: str) -> None:
    async with listening(tmp_path) as port:
        status, _, body = await ask(port, get(f"/.well-known/acme-challenge/{token}"))
        assert (status, body) == (404, b"no such challenge\n")


async def test_everybody_else_is_sent_to_https(tmp_path: Path) -> None:
    """A user who types the name into a browser is redirected, as by the reference."""
    async with listening(tmp_path) as port:
        status, headers, _ = await ask(port, get("/v2/?a=b", "S.test:80"))
        assert (status, headers["location"]) == (302, "https://s.test/v2/?a=b")
    async with listening(tmp_path, "https://r.test:8443/") as port:
        status, headers, _ = await ask(port, get("/v2/"))
        assert (status, headers["location"]) == (302, "https://r.test:8443/v2/")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [(get("/v2/", "evil.test"), 404), (get("/v2/", "r.test", "POST"), 400),
     ("GET http://r.test/ HTTP/1.1\r\n\r\n", 400),
     ("GET / HTTP/2\r\nHost: r.test\r\n\r\n", 400), ("hello\r\n\r\n", 400), (get("/\x0bx"), 400), (get("/é"), 400),
     ("GET / HTTP/1.1\r\nX: y\r\n\r\n", 404)],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused(tmp_path: Path, request_text: str, status: int) -> None:
    """No redirect to a host of the client's choice, no header of its making."""
    async with listening(tmp_path) as port:
        found, headers, _ = await ask(port, request_text)
        assert found == status
        assert "location" not in headers


async def test_too_much_is_not_read(tmp_path: Path) -> None:
    async with listening(tmp_path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                writer.write(b"x" * 65536)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        # The next one is served.
        assert (await ask(port, get("/")))[0] == 302
