"""Clients that vanish at any byte: what arrived is kept; the upload goes on at any worker, after any restart."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from tests.live import start_tested
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.live import Live
    from tests.wire import Answer

pytestmark = [pytest.mark.fault, pytest.mark.slow]

NAME = "resume/app"
DATA = random.Random(8).randbytes(700_001)
LIMIT_S = 60.0


def vanish(host: str, location: str, body: bytes, stop: int, *, chunked: bool, reset: bool) -> None:
    """A PATCH that promises all of `body`, sends `stop` bytes of it and hangs up, politely or by a reset."""
    address, _, port = host.partition(":")
    parts = urlsplit(location)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = f"PATCH {parts.path}?{parts.query} HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n".encode()
    with socket.create_connection((address, int(port)), timeout=60) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(ConnectionError):
            if chunked:
                pieces = [body[i : min(i + 9000, stop)] for i in range(0, stop, 9000)]
                connection.sendall(head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces))
            else:
                connection.sendall(head + body[:stop])


def go_on(wire: Wire, location: str, expected: int | None = None) -> tuple[int, str]:
    """Return the offset once the server is done with the request that broke off, and the next URL.

    Done is: all that is `expected` has arrived, and a PATCH of nothing is taken, not refused because another one
    is being written.  In this order: a PATCH of nothing that overtakes the broken one takes the upload from it.
    """
    deadline, stands = time.monotonic() + LIMIT_S, -1
    while time.monotonic() < deadline:
        status = wire.send("GET", location)
        assert status.status == 204, status
        stands = _stands(status)
        if expected in {None, stands}:
            answer = wire.patch(status.headers["location"], b"")
            assert answer.status in {202, 416}, answer
            if answer.status == 202:
                return _stands(answer), answer.headers["location"]
        time.sleep(0.02)
    raise AssertionError(f"{LIMIT_S} s after the client went away: at {stands}, not {expected}, or still busy")


def _stands(answer: Answer) -> int:
    last = int(answer.headers["range"].partition("-")[2])
    return last + 1 if last else 0


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_hangs_up_at_any_byte_goes_on_later(*, chunked: bool, reset: bool, tmp_path: Path) -> None:
    """A gigabyte sent over a bad line is not sent again from its first byte.

    After a polite close all that was sent is kept.  A reset throws away what the kernel had not handed over,
    and may be seen late: then the client gets a 416 with the offset, and continues from there.
    """
    moments = random.Random(f"{chunked} {reset}")
    with start_tested(tmp_path / "volume", http={"workers": 2}) as live:
        wire = Wire(live.host)
        for _ in range(5):
            location = wire.start_upload(NAME).headers["location"]
            offset = sent = 0
            for _ in range(4):
                rest = DATA[offset:]
                # Not one byte alone: "0-0" means none as well as one (docs/reference/http-api.md, section 7.1).
                stop = moments.choice((0, 2, moments.randrange(2, 300_000), len(rest) - 1)) if len(rest) > 2 else 0
                stop = min(stop, len(rest))
                vanish(live.host, location, rest, stop, chunked=chunked, reset=reset)
                sent = max(sent, offset + stop)
                stands, location = go_on(wire, location, None if reset else offset + stop)
                assert offset <= stands <= sent, "more kept than was sent, or less than before"
                offset = stands
            _finish(wire, location, offset)
            assert wire.blob(NAME, Digest.of(DATA)).body == DATA


def _finish(wire: Wire, location: str, offset: int) -> None:
    done = wire.finish(location, Digest.of(DATA), DATA[offset:])
    deadline = time.monotonic() + LIMIT_S
    while done.status == 416 and time.monotonic() < deadline:
        offset, location = go_on(wire, location)
        done = wire.finish(location, Digest.of(DATA), DATA[offset:])
    assert done.status == 201, done


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_upload_outlives_restarts(end: str, tmp_path: Path) -> None:
    """An upgrade of the registry in the middle of a push costs the client one retry."""
    root, location, offset = tmp_path / "volume", "", 0
    for number in range(4):
        with start_tested(root) as live:
            wire = Wire(live.host)
            if not location:
                location = wire.start_upload(NAME).headers["location"]
            answer = wire.patch(location, DATA[offset : offset + 100_003], offset)
            assert answer.status == 202, f"restart {number}: {answer}"
            location, offset = answer.headers["location"], offset + 100_003
            if end == "kill":
                live.kill()
    with start_tested(root) as live:
        wire = Wire(live.host)
        assert wire.send("GET", location).headers["range"] == f"0-{offset - 1}"
        done = wire.finish(location, Digest.of(DATA), DATA[offset:], offset)
        assert done.status == 201, done
        assert wire.blob(NAME, Digest.of(DATA)).body == DATA


def test_a_stop_in_the_middle_of_a_request_keeps_what_arrived(tmp_path: Path) -> None:
    """SIGTERM while a layer streams in: drained or cut off, the upload can be gone on with."""
    root, data, sent = tmp_path / "volume", DATA * 6, 3_000_000  # more than the server gathers before it writes
    with start_tested(root, http={"draintimeout": "1s"}) as live:
        wire = Wire(live.host)
        location = wire.start_upload(NAME).headers["location"]
        address, _, port = live.host.partition(":")
        parts = urlsplit(location)
        with socket.create_connection((address, int(port)), timeout=60) as connection:
            connection.sendall(
                f"PATCH {parts.path}?{parts.query} HTTP/1.1\r\nHost: {live.host}\r\n"
                f"Content-Length: {len(data)}\r\n\r\n".encode()
                + data[:sent]
            )
            _until(lambda: _stored(live) > 0)
            live.stop()
    with start_tested(root) as live:
        wire = Wire(live.host)
        offset, location = go_on(wire, location)
        assert offset <= sent
        done = wire.finish(location, Digest.of(data), data[offset:])
        assert done.status == 201, done
        assert wire.blob(NAME, Digest.of(data)).body == data


def _stored(live: Live) -> int:
    return sum(
        path.stat().st_size for path in live.root.glob("docker/registry/v2/repositories/**/_uploads/*/data")
    )


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the first bytes never arrived"
        time.sleep(0.02)


def test_consecutive_chunks_reach_different_workers(tmp_path: Path) -> None:
    """Any request may reach any process: forty chunks over fresh connections and three workers, hashed once."""
    with start_tested(tmp_path / "volume", http={"workers": 3}) as live:
        wire = Wire(live.host)
        location, offset, step = wire.start_upload(NAME).headers["location"], 0, len(DATA) // 40
        while offset + step < len(DATA):
            answer = wire.patch(location, DATA[offset : offset + step], offset)
            assert answer.status == 202, answer
            location, offset = answer.headers["location"], offset + step
        done = wire.finish(location, Digest.of(DATA), DATA[offset:], offset)
        assert done.status == 201, done
        assert wire.blob(NAME, Digest.of(DATA)).body == DATA
