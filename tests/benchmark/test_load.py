"""Generators of the benchmark: works begin together however long one prepares, and a failure names its reason."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from bench import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def test_works_begin_when_the_last_one_is_ready() -> None:
    """A rate over a time that was fixed in advance would count preparation on a slow machine."""
    started = time.monotonic()

    def work(number: int) -> Callable[[], Callable[[], tuple[int, float, float]]]:
        def prepare() -> Callable[[], tuple[int, float, float]]:
            time.sleep(0.2 * number)
            ready = time.monotonic()
            return lambda: (number, ready, time.monotonic())

        return prepare

    done = load.together(_cpus(), [work(0), work(1)], lambda: time.monotonic() - started)
    assert [number for number, _, _ in done.results] == [0, 1]
    last_ready = max(ready for _, ready, _ in done.results)
    assert all(begun >= last_ready for _, _, begun in done.results)
    assert 0 <= done.wall_s <= done.server_s + 0.001, "the server's seconds are counted from the same moment"
    assert done.server_s <= time.monotonic() - last_ready


def test_a_failed_preparation_ends_the_others_and_is_the_reason() -> None:
    def broken() -> Callable[[], None]:
        raise ValueError("no image")

    def ready() -> Callable[[], None]:
        return lambda: None

    with pytest.raises(load.LoadFailed, match="ValueError: no image"):
        load.together(_cpus(), [ready, broken, ready], lambda: 0.0)


@pytest.fixture
def answering() -> Iterator[int]:
    """The port of a server that answers every request alike."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        # The generator goes away with an answer unread.
        with connection, contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                connection.sendall(_ANSWER)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(20)


@pytest.mark.slow
def test_every_latency_of_a_load_is_kept(answering: int) -> None:
    """One in seven would miss most of the slowest."""
    found = load.run(answering, b"GET / HTTP/1.1\r\n\r\n", connections=2, seconds=0.3, cpus=_cpus()[:1])
    assert found.latency["operations"] == pytest.approx(found.per_s * 0.3)
    assert 0 < found.latency["operations"] <= found.answers
