"""Memory that several processes share: nothing torn is read, nothing counted is lost."""

from __future__ import annotations

import os
import signal
import struct
import threading

import pytest
import structlog

from moorage.metrics.board import Board
from moorage.metrics.recorder import Snapshot

ONE = ("moorage_refusals_total", "X")


def counting(value: float, **more: float) -> Snapshot:
    return Snapshot(os.getpid(), counters={ONE: value, **{(name,): value for name, value in more.items()}})


def total(board: Board) -> float:
    dead, living = board.read()
    everything = Snapshot()
    for snapshot in (dead, *living):
        everything.add(snapshot)
    return everything.counters.get(ONE, 0)


def test_an_empty_board_shows_nobody() -> None:
    dead, living = Board(2).read()
    assert dead == Snapshot()
    assert living == []


def test_what_a_worker_shows_replaces_what_it_showed() -> None:
    board = Board(2)
    place = board.claim()
    for value in (1, 2, 3):
        board.publish(place, counting(value))
        assert total(board) == value


def test_another_process_sees_it() -> None:
    board = Board(1)
    place = board.claim()
    pid = os.fork()
    if pid == 0:
        board.publish(place, counting(7))
        os._exit(0)
    os.waitpid(pid, 0)
    _, (living,) = board.read()
    assert (living.pid, living.counters[ONE]) == (pid, 7)


def test_the_dead_are_added_up_and_their_gauges_go() -> None:
    """A counter that goes back looks like a restart, and an alert fires."""
    board = Board(1)
    for value in (1, 2, 4):
        place = board.claim()
        shown = counting(value)
        shown.gauges["moorage_storage_threads",] = 5
        board.publish(place, shown)
        board.release(place)
    dead, living = board.read()
    assert dead.counters[ONE] == 7
    assert dead.gauges == {}
    assert living == []


def test_a_worker_that_never_showed_anything_is_buried_too() -> None:
    board = Board(1)
    place = board.claim()
    board.release(place)
    board.release(None)
    assert board.read() == (Snapshot(), [])
    assert board.claim() == place


def test_a_worker_killed_while_it_writes_leaves_what_it_had_shown() -> None:
    board = Board(1)
    place = board.claim()
    board.publish(place, counting(1))
    board.publish(place, counting(2))
    # The third one is cut: bytes of it are there, its head is not, or not yet with these bytes.
    assert place is not None
    at = board._at(place)
    first = board._memory[at : at + 16]
    board._memory[at + 16 : at + 20] = b"torn"
    assert total(board) == 2
    struct.pack_into("<Q", board._memory, at, 99)
    assert total(board) == 2
    board.release(place)
    assert total(board) == 2
    assert first != bytes(16)


def test_readers_never_see_a_number_go_back_while_workers_die() -> None:
    """A thousand workers come, count and go, while a reader reads."""
    board = Board(1)
    done = threading.Event()
    seen: list[float] = []

    def read() -> None:
        while not done.is_set():
            seen.append(total(board))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(1000):
            place = board.claim()
            board.publish(place, counting(1))
            board.publish(place, counting(2))
            board.release(place)
    finally:
        done.set()
        reader.join()
    assert seen == sorted(seen)
    assert total(board) == 2000


def test_a_worker_too_many_goes_uncounted_and_is_told_of() -> None:
    """It must not keep the registry from serving."""
    board = Board(1)
    places = [board.claim() for _ in range(20)]
    assert None not in places
    with structlog.testing.capture_logs() as logs:
        assert board.claim() is None
    assert [line["log_level"] for line in logs] == ["warning"]
    board.publish(None, counting(1))
    assert total(board) == 0


def test_numbers_that_do_not_fit_leave_those_before_and_are_told_of_once() -> None:
    board = Board(1)
    place = board.claim()
    board.publish(place, counting(1))
    large = Snapshot(counters={("moorage_refusals_total", "X" * 300_000 + str(number)): 1 for number in range(2)})
    with structlog.testing.capture_logs() as logs:
        board.publish(place, large)
        board.publish(place, large)
    assert [line["log_level"] for line in logs] == ["error"]
    assert total(board) == 1


@pytest.mark.fault
@pytest.mark.slow
def test_workers_killed_at_any_moment_lose_only_what_they_had_not_shown() -> None:
    """A counter that decreases looks like a restart."""
    board = Board(1)
    before = 0.0
    for _ in range(30):
        place = board.claim()
        ready, signal_ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            value = 0.0
            while True:
                value += 1
                board.publish(place, counting(value))
                if value == 50:
                    os.write(signal_ready, b"x")
        os.read(ready, 1)
        seen = total(board)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(signal_ready)
        board.release(place)
        assert total(board) >= seen >= before + 50
        before = total(board)
