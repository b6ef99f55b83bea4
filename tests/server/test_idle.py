"""Only connections that nobody uses are closed."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from moorage.server.idle import close_idle

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A listening socket, a client, and the connection that was accepted from it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), timeout=60) as client,
    ):
        accepted, _ = listening.accept()
        with accepted:
            yield listening, client, accepted


def peer(client: socket.socket) -> tuple[str, str]:
    """As Granian names it."""
    host, port = client.getsockname()
    return host, str(port)


def test_an_idle_connection_is_closed(pair: Pair) -> None:
    listening, client, _ = pair
    assert close_idle(listening.getsockname(), 0, frozenset()) == 1
    assert client.recv(1) == b""


def test_a_connection_that_was_used_lately_stays(pair: Pair) -> None:
    listening, _, _ = pair
    assert close_idle(listening.getsockname(), 60, frozenset()) == 0


def test_a_connection_whose_request_is_being_answered_stays(pair: Pair) -> None:
    """However long that takes: a large upload, a slow storage."""
    listening, client, _ = pair
    assert close_idle(listening.getsockname(), 0, frozenset({peer(client)})) == 0


def test_a_connection_with_something_to_send_stays(pair: Pair) -> None:
    """A file that Granian sends by itself has no request in flight any more."""
    listening, _, accepted = pair
    accepted.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while accepted.send(bytes(1 << 16)):
            pass
    assert close_idle(listening.getsockname(), 0, frozenset()) == 0


def test_other_sockets_of_the_process_are_left_alone(pair: Pair) -> None:
    """Connections to the storage, to Redis, to the master."""
    listening, client, _ = pair
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert close_idle(other.getsockname(), 0, frozenset()) == 0
    assert close_idle(listening.getsockname(), 0, frozenset({peer(client)})) == 0
    client.sendall(b"still open")


def test_unix_connections_go_when_no_request_is_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("s") / "u")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(path)
        listening.listen()
        client.connect(path)
        accepted, _ = listening.accept()
        with accepted:
            assert close_idle(path, 0, frozenset({()})) == 0
            assert close_idle(path, 0, frozenset()) == 1
            assert client.recv(1) == b""
