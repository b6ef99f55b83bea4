"""The worker pool and the rolling restart, when the kernel refuses another process."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog

from moorage.config.model import Settings
from moorage.logs.mail_hook import MailQueue
from moorage.metrics.board import Board
from moorage.server.processes.rolling_restart import RollingRestart
from moorage.server.processes.worker_pool import Slot, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Iterator


def refused(*_: object) -> NoReturn:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Pool:
    """A pool of two workers; `refusing` is whether the kernel refuses to fork."""

    def __init__(self) -> None:
        self.refusing = False
        self.withdrawn: list[int] = []
        self._pids = iter(range(1, 100))
        self._listening = socket.socket()
        self.selector = selectors.DefaultSelector()
        self.board = Board(3)
        sockets: Any = SimpleNamespace(of=lambda _: self._listening, withdraw=self.withdrawn.append)
        observation: Any = SimpleNamespace(sockets=sockets, board=self.board)
        self.pool = WorkerPool([Slot(0), Slot(1)], sockets, self.selector, self._fork, observation, MailQueue())

    def _fork(self, plan: object, become: object, keep: object) -> int:
        del plan, become, keep
        return refused() if self.refusing else next(self._pids)

    def close(self) -> None:
        for worker in self.pool.workers.values():
            worker.control.close()
        self._listening.close()
        self.selector.close()


@pytest.fixture
def made() -> Iterator[Pool]:
    with closing(Pool()) as pool:
        yield pool


def plan() -> Any:
    return SimpleNamespace(settings=Settings(), builder=lambda _: None, options=None, instance="i", source="s",
                           awaiting=False, watched=SimpleNamespace(paths=()))  # fmt: skip


def test_a_worker_that_cannot_be_forked_is_started_later(made: Pool) -> None:
    """The master, and with it the whole server, ended when a worker died while the host had no more processes."""
    made.pool.start_all(plan())
    made.refusing = True
    made.pool.slots[0].current = None
    places, descriptors = len(made.board._free), open_files()
    with structlog.testing.capture_logs() as logs:
        assert made.pool.start(made.pool.slots[0], plan()) is None
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["cannot start a worker"]
    assert len(made.board._free) == places
    assert open_files() == descriptors
    made.refusing = False
    (due,) = (at for at in [made.pool.slots[0].backoff.at] if at is not None)
    made.pool.start_due(plan(), due)
    assert made.pool.slots[0].current is not None


def test_a_reload_during_which_no_worker_can_be_forked_keeps_the_old_ones(made: Pool) -> None:
    """Their sockets stay open, and the log does not report a reload that did not happen."""
    old, new = plan(), plan()
    made.pool.start_all(old)
    for slot in made.pool.slots:
        assert slot.current is not None
        slot.current.ready = True
    restart = RollingRestart(old, made.pool, lambda _: new, lambda found: found, lambda: None)
    restart.begin()
    made.refusing = True
    with structlog.testing.capture_logs() as logs:
        restart.reload()
    assert restart.plan is old
    assert [line["event"] for line in logs if line["log_level"] in {"error", "info"}] == [
        "cannot start a worker", "no new worker could be started: the old ones stay",
    ]  # fmt: skip
    assert [slot.backoff.at for slot in made.pool.slots] == [None, None]
    assert made.withdrawn == []
    made.refusing = False
    restart.reload()
    assert made.pool.slots[0].replacement is not None
