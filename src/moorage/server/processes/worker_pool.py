"""The crew: the workers as the master sees them.  Starts, hears, counts and buries processes; serves nothing.

    slot 0 ─ socket 0 ─ current ─ (fresh, while it is to take over)
    slot 1 ─ socket 1 ─ current
    ...

    a worker    started ─► ready ─► retiring ─► buried
                   └─► too late: killed ──────────┘
    a slot      current, fresh beside it ─► fresh is ready: it is the current one, and who was there retires
                current dies ─► empty, until it is time to try again (`restart_backoff.py`) ─► current

When workers are replaced, and by those of which plan, is not decided here but in `rolling_restart.py`.
Above: `master.py`.  On the other side of the control sockets: `worker.py`.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from moorage.server.processes.protocol import (
    CERTIFICATE,
    DRAINING,
    EXCHANGE_FAILED,
    EXCHANGED,
    EXCLUDED,
    HEARTBEAT,
    READY,
    RETIRE,
    START_FAILED,
    Job,
)
from moorage.server.processes.restart_backoff import RestartBackoff
from moorage.server.processes.shared_count import SharedCount
from moorage.server.processes.worker import main
from moorage.server.tls.memfd import SealedMemory
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from moorage.logs.mail_hook import MailQueue
    from moorage.metrics.board import Board
    from moorage.server.listeners import Sockets
    from moorage.server.processes.storage_report import SharedReport
    from moorage.server.processes.worker_config import Plan
    from moorage.server.telemetry import Observation

__all__ = ["Fork", "Slot", "Worker", "WorkerPool", "ended"]

_START_LIMIT_S: Final = 60.0
_SILENCE_LIMIT_S: Final = 5.0
"""How long the heartbeat of a worker may be missing (`job.HEARTBEAT_S`) until others get the new connections."""
_log: Final = structlog.get_logger("moorage.server")


@dataclass(eq=False, slots=True)
class Worker:
    """`place` is its place on the board.  `in_flight` counts the requests that it is answering.

    `exchange` is when to send the certificate of the plan in force (`at` None: it was sent); `exchanging` whether
    one was sent and neither confirmed nor refused yet; `exchange_failed` whether the last try failed.

    `heard` is when the last heartbeat came, in seconds of `time.monotonic`; `stuck` whether one is overdue.
    """

    pid: int
    slot: Slot
    control: socket.socket
    started: float
    place: int | None = None
    in_flight: SharedCount = field(default_factory=SharedCount)
    ready: bool = False
    retiring: bool = False
    exchange: RestartBackoff = field(default_factory=RestartBackoff)
    exchanging: bool = False
    exchange_failed: bool = False
    heard: float = 0.0
    stuck: bool = False


@dataclass(eq=False, slots=True)
class Slot:
    """A place for one worker.  `fresh` is the one that is to take over; `retry` when to fill an empty place."""

    number: int
    current: Worker | None = None
    fresh: Worker | None = None
    retry: RestartBackoff = field(default_factory=RestartBackoff)


class Fork(Protocol):
    """Makes a child that runs `become`, and returns its process id.

    The child keeps of all listening sockets only those in `keep`, and of all plans only `plan`: the private key of
    another one is none of its business.
    """

    def __call__(
        self, plan: Plan, become: Callable[[], NoReturn], keep: tuple[socket.socket | None, ...]
    ) -> int: ...


@dataclass(slots=True)
class WorkerPool:
    """`slots` are as many as there are to be workers; `workers` those that live, by process id.

    `selector` tells when one of them speaks, with the worker as its data.  `observation` and `storage` are shared
    by all workers, if there is a debug listener or a storage monitor.  `mail` is the queue of log lines for mails.
    """

    slots: list[Slot]
    sockets: Sockets
    selector: selectors.BaseSelector
    fork: Fork
    observation: Observation | None
    mail: MailQueue
    storage: SharedReport | None = None
    workers: dict[int, Worker] = field(default_factory=dict)
    checked: float = field(default_factory=time.monotonic)
    """When heartbeats were last looked for."""

    # Coming

    def start(self, slot: Slot, plan: Plan) -> Worker | None:
        """Fork a worker into a slot; beside the current one, if there is one.  None: it is tried again later."""
        slot.retry.cancel()
        try:
            listening = self.sockets.of(slot.number)
            ours, theirs = socket.socketpair()
        except OSError as error:
            _log.error("cannot start a worker", worker=slot.number, cause=str(error))
            self._later(slot)
            return None
        debug, board, place = self._observed(slot)
        in_flight = SharedCount()
        job = Job(
            slot.number, plan.settings, plan.builder(slot.number), listening, theirs, plan.options, plan.instance,
            os.getpid(), debug, board, place, self.storage, in_flight, self.mail.processors(plan.settings.log),
        )  # fmt: skip

        def become() -> NoReturn:
            ours.close()
            main(job)

        pid = self.fork(plan, become, (listening, debug))
        theirs.close()
        worker = Worker(pid, slot, ours, time.monotonic(), place, in_flight)
        self.workers[pid] = worker
        self.selector.register(ours, selectors.EVENT_READ, worker)
        if slot.current is None:
            slot.current = worker
        else:
            slot.fresh = worker
        return worker

    def _observed(self, slot: Slot) -> tuple[socket.socket | None, Board | None, int | None]:
        """The debug listener's socket, for worker 0; the board, and a place on it."""
        if self.observation is None:
            return None, None, None
        board = self.observation.board
        return (self.observation.sockets.of(0) if slot.number == 0 else None), board, board.claim()

    def start_all(self, plan: Plan) -> None:
        for slot in self.slots:
            self.start(slot, plan)

    def start_due(self, plan: Plan, now: float) -> None:
        """In the place of those that have died, where the wait is over."""
        for slot in self.slots:
            if slot.retry.is_due(now):
                self.start(slot, plan)

    def _later(self, slot: Slot, lived_s: float = 0.0) -> None:
        wait_s = slot.retry.after(time.monotonic(), lived_s)
        if wait_s:
            _log.warning("waiting before the next try", worker=slot.number, seconds=wait_s)
            self.sockets.withdraw(slot.number)

    def kill_late(self, now: float) -> None:
        """Those that have not come up in time; `bury` finds them."""
        for worker in self.workers.values():
            if not worker.ready and now >= worker.started + _START_LIMIT_S:
                _log.error("a worker did not start in time and is killed", pid=worker.pid)
                worker.started = now
                _send(worker.pid, signal.SIGKILL)

    def due(self) -> list[float]:
        """When `start_due`, `kill_late`, `exchange_due` and `check_heartbeats` have something to do."""
        retries = [slot.retry.at for slot in self.slots if slot.retry.at is not None]
        starts = [each.started + _START_LIMIT_S for each in self.workers.values() if not each.ready]
        exchanges = [each.exchange.at for each in self._outdated() if each.exchange.at is not None]
        return [
            *retries,
            *starts,
            *exchanges,
            *(each.heard + _SILENCE_LIMIT_S for each in self._attended() if not each.stuck),
        ]

    # Being there

    def hear(self, worker: Worker) -> bool:
        """Read what a worker says: whether it is ready to `take_over`.  Its end is noticed when it is buried."""
        try:
            heard = worker.control.recv(16)
        except OSError:
            heard = b""
        if not heard:
            self.selector.unregister(worker.control)
        came_up = False
        if heard:
            self._responds(worker)
        for word in (bytes([letter]) for letter in heard.replace(HEARTBEAT, b"")):
            if word == READY:
                worker.ready = came_up = True
            elif word == EXCHANGED:
                self._exchanged(worker)
            elif word == EXCHANGE_FAILED:
                worker.exchanging = False
                self._exchange_later(worker, "the worker could not use it; its own line in the log has the cause")
            elif word == DRAINING:
                self._draining(worker)
        return came_up and worker is worker.slot.fresh

    def _draining(self, worker: Worker) -> None:
        """Keep new connections out of its queue, and report that: it accepts what is there and no more.

        Its socket stays open here for the worker that takes its place.
        """
        if worker is worker.slot.current:
            self.sockets.exclude(worker.slot.number)
        with suppress(OSError):  # it does not wait for long
            worker.control.send(EXCLUDED, socket.MSG_DONTWAIT)

    def _attended(self) -> Iterator[Worker]:
        """Yield the workers that get new connections."""
        for slot in self.slots:
            if slot.current is not None and slot.current.ready and not slot.current.retiring:
                yield slot.current

    def _responds(self, worker: Worker) -> None:
        silent_s, worker.heard = time.monotonic() - worker.heard, time.monotonic()
        if worker.stuck:
            worker.stuck = False
            self.sockets.include(worker.slot.number)
            _log.warning(
                "a worker responds again", worker=worker.slot.number, pid=worker.pid, silent_s=round(silent_s)
            )

    def check_heartbeats(self, now: float) -> None:
        """Give the new connections of a worker whose event loop has stopped to the others."""
        asleep, self.checked = now - self.checked >= _SILENCE_LIMIT_S, now
        for worker in self._attended():
            if asleep:  # this process, not they: nothing has been read meanwhile
                worker.heard = now
            elif not worker.stuck and now >= worker.heard + _SILENCE_LIMIT_S:
                worker.stuck = True
                self.sockets.exclude(worker.slot.number)
                others = "new connections wait" if len(self.slots) == 1 else "new connections go to the others"
                _log.warning(f"a worker does not respond; {others}", worker=worker.slot.number, pid=worker.pid)

    def take_over(self, worker: Worker) -> None:
        """The fresh one is the current one from now on, and the one before it retires."""
        slot = worker.slot
        old, slot.current, slot.fresh = slot.current, worker, None
        slot.retry.cancel()
        slot.retry.forgive()
        if old is not None:
            self.sockets.include(slot.number)
            old.retiring = True
            try:
                old.control.send(RETIRE, socket.MSG_DONTWAIT)
            except OSError:
                _send(old.pid, signal.SIGTERM)

    # Certificates

    def exchange(self, plan: Plan) -> None:
        """Have all workers serve new connections with the certificate of `plan`.

        Each worker has at most one unanswered certificate in its control socket, and gets the newest one until it
        confirms: with an old certificate it would fail its clients once that expires.
        """
        now = time.monotonic()
        for worker in self.workers.values():
            worker.exchange.forgive()
            worker.exchange.after(now)
        self.exchange_due(plan, now)

    def exchange_due(self, plan: Plan, now: float) -> None:
        """Send the certificate of the plan in force to those that need it, where the wait is over."""
        due = [worker for worker in self._outdated() if worker.exchange.is_due(now)]
        if not due:
            return
        if (tls := plan.options.tls) is None:  # a reload has removed TLS
            for worker in due:
                worker.exchange.cancel()
            return
        try:
            data = SealedMemory("moorage certificates", pickle.dumps(tls))
        except (StartupError, OSError) as error:
            for worker in due:
                self._exchange_later(worker, str(error))
            return
        for worker in due:
            try:
                socket.send_fds(worker.control, [CERTIFICATE], [data.descriptor], socket.MSG_DONTWAIT)
            except ConnectionError:
                # It has died and is buried soon; its successor gets the new plan.
                worker.exchange.cancel()
            except OSError as error:
                self._exchange_later(worker, str(error))
            else:
                worker.exchange.cancel()
                worker.exchanging = True

    def _outdated(self) -> Iterator[Worker]:
        """Yield the workers that need the certificate of the plan in force, and have answered earlier ones."""
        for worker in self.workers.values():
            if worker.exchange.at is not None and not worker.exchanging and not worker.retiring:
                yield worker

    def _exchange_later(self, worker: Worker, cause: str) -> None:
        wait_s = worker.exchange.after(time.monotonic())
        worker.exchange_failed = True
        _log.warning(
            "a worker does not serve the new certificate yet; it is sent again",
            worker=worker.slot.number, pid=worker.pid, cause=cause, seconds=wait_s,
        )  # fmt: skip

    def _exchanged(self, worker: Worker) -> None:
        worker.exchanging = False
        if worker.exchange.at is not None:
            return  # another one has come meanwhile
        worker.exchange.forgive()
        if worker.exchange_failed:
            worker.exchange_failed = False
            _log.info("a worker serves the new certificate now", worker=worker.slot.number, pid=worker.pid)

    def is_exchanging(self) -> bool:
        """Return whether a worker has not confirmed a certificate yet."""
        return any(
            worker.exchanging or (worker.exchange.at is not None and not worker.retiring)
            for worker in self.workers.values()
        )

    def in_flight(self) -> int:
        """Requests that are being answered, those of workers that retire included."""
        return sum(worker.in_flight.value for worker in self.workers.values())

    def has_starting(self) -> bool:
        return any(not each.ready for each in self.workers.values())

    def has_ready(self) -> bool:
        return any(each.ready for each in self.workers.values())

    def has_current(self) -> bool:
        return any(slot.current is not None and slot.current.ready for slot in self.slots)

    # Going

    def bury(self, pid: int) -> Worker | None:
        """Strike the dead off the list; None if it is none of ours."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return None
        if worker.control.fileno() in self.selector.get_map():
            self.selector.unregister(worker.control)
        worker.control.close()
        if self.observation is not None:
            self.observation.board.bury(worker.place)
        return worker

    def lost(self, worker: Worker, status: int) -> bool:
        """It has died, and not because the server stops.  Another one takes its place, unless it was to go.

        True: it was fresh, so nobody takes over in its slot, and whoever replaces workers must know.
        """
        slot = worker.slot
        if worker.retiring:
            _log.debug("old worker has ended", pid=worker.pid)
            return False
        how = ended(status)
        if worker is slot.fresh:
            slot.fresh = None
            _log.error("the new worker could not start: the old ones stay", pid=worker.pid, ended=how)
            if slot.current is None:  # whom it was to replace died meanwhile
                self._later(slot)
            return True
        slot.current = None
        self.sockets.include(slot.number)
        if status == 0:
            _log.warning(
                "a worker was ended by SIGTERM; another takes its place", worker=slot.number, pid=worker.pid
            )
        elif status == START_FAILED and not worker.ready:
            _log.error("a worker could not start", worker=slot.number, pid=worker.pid)
        else:
            _log.error("a worker died; another takes its place", worker=slot.number, pid=worker.pid, ended=how)
        if slot.fresh is not None:
            return False
        self._later(slot, time.monotonic() - worker.started if worker.ready else 0.0)
        return False

    def tell_all(self, number: signal.Signals) -> None:
        for pid in list(self.workers):
            _send(pid, number)

    def kill_all(self) -> None:
        """SIGKILL, and wait until they are gone."""
        self.tell_all(signal.SIGKILL)
        for pid in list(self.workers):
            os.waitpid(pid, 0)
            self.workers.pop(pid).control.close()

    def close_sockets(self) -> None:
        """In the master, at the end: no more connections."""
        self.sockets.close()
        if self.observation is not None:
            self.observation.sockets.close()

    def forget(self, keep: tuple[socket.socket | None, ...]) -> None:
        """In a child: what is the master's, or sockets and deaths would go unnoticed."""
        for worker in self.workers.values():
            worker.control.close()
        observed = [] if self.observation is None else self.observation.sockets.sockets
        for one in (*self.sockets.sockets, *observed):
            if one is not None and one not in keep:
                one.close()


def ended(status: int) -> str:
    """How a process ended, for the log; `status` as of `os.waitstatus_to_exitcode`."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
