"""New connections are steered past a worker that does not accept: with real sockets, and with real workers."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.server.serving import serving, until

from moorage.server.listeners import Sockets, bind
from moorage.server.processes import reuseport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.serving import Served

CONNECTIONS = 64
"""With a fair choice between two sockets one of them is left out once in 2**63 runs."""


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """Those of four workers on one port."""
    bound = bind("tcp", "127.0.0.1:0", 4)
    yield bound
    bound.close()


def taken(sockets: Sockets) -> list[int]:
    """How many of some new connections each worker's socket has been given."""
    with ExitStack() as stack:
        port = next(one for one in sockets.sockets if one is not None).getsockname()[1]
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        return [0 if one is None else accepted(one) for one in sockets.sockets]


def accepted(listening: socket.socket) -> int:
    count = 0
    listening.setblocking(False)
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_program_chooses_each_socket_as_often_as_the_others() -> None:
    """A group without one of its members stays balanced."""
    assert len(reuseport.program([5])) == 3 * 8
    assert len(reuseport.program([0, 2, 3])) == 7 * 8
    with pytest.raises(ValueError, match="no socket"):
        reuseport.program([])


def test_an_excluded_socket_gets_no_connections_until_it_is_included(sockets: Sockets) -> None:
    """Clients never wait in the queue of a worker that is known to be stuck."""
    sockets.exclude(1)
    assert [bool(count) for count in taken(sockets)] == [True, False, True, True]
    sockets.exclude(3)
    assert [bool(count) for count in taken(sockets)] == [True, False, True, False]
    sockets.include(1)
    assert [bool(count) for count in taken(sockets)] == [True, True, True, False]
    sockets.include(3)
    assert all(taken(sockets))


def test_sockets_that_close_and_open_again_do_not_change_who_is_excluded(sockets: Sockets) -> None:
    """The kernel's order of the group changes with each of them; a wrong guess would exclude a healthy worker."""
    sockets.exclude(3)
    sockets.withdraw(0)
    assert [bool(count) for count in taken(sockets)] == [False, True, True, False]
    sockets.of(0)
    assert [bool(count) for count in taken(sockets)] == [True, True, True, False]
    sockets.withdraw(3)
    sockets.withdraw(1)
    assert [bool(count) for count in taken(sockets)] == [True, False, True, False]
    sockets.of(3)
    sockets.of(1)
    assert [bool(count) for count in taken(sockets)] == [True, True, True, False]
    sockets.include(3)
    assert all(taken(sockets))


def test_where_all_are_excluded_all_are_served(sockets: Sockets) -> None:
    """No choice is better than another then."""
    for index in range(4):
        sockets.exclude(index)
    assert all(taken(sockets))


def test_one_queue_for_all_is_never_steered() -> None:
    """A worker that does not accept takes nothing from it."""
    bound = bind("tcp", "127.0.0.1:0", 1)
    try:
        bound.exclude(0)
        assert taken(bound) == [CONNECTIONS]
        bound.include(0)
    finally:
        bound.close()


def answering(served: Served) -> set[int]:
    """The process ids that answer new connections."""
    return {int(served.get()[2].split(b'"pid": ')[1].split(b",")[0]) for _ in range(CONNECTIONS)}


@pytest.mark.slow
def test_a_stopped_worker_gets_no_new_connections(tmp_path: Path) -> None:
    """With one of two workers stopped, half of all clients would wait for it."""
    with serving(tmp_path) as served:
        stuck, other = served.children()
        os.kill(stuck, signal.SIGSTOP)
        served.logged("a worker does not respond; new connections go to the others")
        assert answering(served) == {other}
        os.kill(stuck, signal.SIGCONT)
        served.logged("a worker responds again")
        until(lambda: answering(served) == {stuck, other}, "both workers to answer")
        assert served.stop() == 0


@pytest.mark.slow
def test_a_stopped_worker_that_is_killed_is_replaced_and_served_again(tmp_path: Path) -> None:
    """Its successor takes over its socket, with those who wait there."""
    with serving(tmp_path) as served:
        stuck, other = served.children()
        os.kill(stuck, signal.SIGSTOP)
        served.logged("a worker does not respond")
        os.kill(stuck, signal.SIGKILL)
        until(lambda: len(answering(served) - {stuck, other}) == 1, "another worker to answer")


def test_a_worker_that_finishes_its_requests_gets_no_new_connections(tmp_path: Path) -> None:
    """Its socket stays open for its successor; new clients would wait there as long as its last request takes."""
    with serving(tmp_path) as served, ExitStack() as stack:
        first, second = served.children()
        waiting: dict[int, socket.socket] = {}
        while len(waiting) < 2:  # a request that takes long in each of the two
            connection = stack.enter_context(served.connect())
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            waiting[int(connection.recv(4096).split(b'"pid": ')[1].split(b",")[0])] = connection
        waiting[first].sendall(b"GET /wait?file=go HTTP/1.1\r\nHost: x\r\n\r\n")
        served.seen("waiting")
        os.kill(first, signal.SIGTERM)
        until(lambda: answering(served) == {second}, "the other worker alone to answer")
        (tmp_path / "go").touch()
        assert b"released" in waiting[first].recv(4096)
        until(lambda: len(answering(served) - {first, second}) == 1, "another worker to answer")
