"""Worker pool: the workers as the master sees them.  Starts, monitors, replaces and reaps processes.

    slot 0 ─ socket 0 ─ current ─ (replacement, until it is ready)
    slot 1 ─ socket 1 ─ current
    ...

    a worker    started ─► ready ─► retiring ─► reaped
                   └─► overdue: killed ───────────┘
    a slot      current, replacement started ─► replacement is ready: it is current, and the former one retires
                current dies ─► empty, until `restart_backoff.py` allows another start ─► current

`rolling_restart.py` decides when workers are replaced and from which plan.
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
    CERTIFICATE_FAILED,
    CERTIFICATE_LOADED,
    DRAINING,
    HEARTBEAT,
    HEARTBEAT_LIMIT_S,
    NO_NEW_CONNECTIONS,
    READY,
    RETIRE,
    START_FAILED,
    WorkerStartup,
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

__all__ = ["Fork", "Slot", "Worker", "WorkerPool", "describe_exit"]

_START_LIMIT_S: Final = 60.0
_log: Final = structlog.get_logger("moorage.server")


@dataclass(eq=False, slots=True)
class Worker:
    """A worker process.  `place` is its place on the board, `in_flight` the number of its running requests.

    `certificate_backoff` is when to send the certificate of the current plan (`at` None: nothing to send);
    `certificate_sent`: one was sent and is not answered yet; `certificate_failed`: the last one was refused.

    `last_heartbeat` is in seconds of `time.monotonic`; `unresponsive`: a heartbeat is overdue.
    """

    pid: int
    slot: Slot
    control: socket.socket
    started: float
    place: int | None = None
    in_flight: SharedCount = field(default_factory=SharedCount)
    ready: bool = False
    retiring: bool = False
    certificate_backoff: RestartBackoff = field(default_factory=RestartBackoff)
    certificate_sent: bool = False
    certificate_failed: bool = False
    last_heartbeat: float = 0.0
    unresponsive: bool = False


@dataclass(eq=False, slots=True)
class Slot:
    """A place for one worker.  `replacement` takes over when it is ready; `backoff`: when to fill it again."""

    number: int
    current: Worker | None = None
    replacement: Worker | None = None
    backoff: RestartBackoff = field(default_factory=RestartBackoff)


class Fork(Protocol):
    """Forks a child that runs `become`, and returns its process id.

    The child keeps only the listening sockets in `keep`, and only the plan `plan`: another one has another private
    key.
    """

    def __call__(
        self, plan: Plan, become: Callable[[], NoReturn], keep: tuple[socket.socket | None, ...]
    ) -> int: ...


@dataclass(slots=True)
class WorkerPool:
    """`slots` has one slot per configured worker; `workers` are the running processes by process id.

    `selector` monitors their control sockets, with the worker as data.  `observation` and `storage` are shared by
    all workers, if there is a debug listener or a storage monitor.  `mail` is the queue of log lines for mails.
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
    """Time of the last check of the heartbeats."""

    # Start

    def start(self, slot: Slot, plan: Plan) -> Worker | None:
        """Fork a worker into a slot, as replacement of a current one.

        None: it cannot be forked.  An empty slot is filled later; a current worker stays.
        """
        slot.backoff.cancel()
        try:
            listening = self.sockets.of(slot.number)
            control, child_end = socket.socketpair()
        except OSError as error:
            self._not_forked(slot, error)
            return None
        debug, board, place = self._observed(slot)
        in_flight = SharedCount()
        job = WorkerStartup(
            slot.number, plan.settings, plan.builder(slot.number), listening, child_end, plan.options,
            plan.instance, os.getpid(), debug, board, place, self.storage, in_flight,
            self.mail.processors(plan.settings.log),
        )  # fmt: skip

        def become() -> NoReturn:
            control.close()
            main(job)

        try:
            pid = self.fork(plan, become, (listening, debug))
        except OSError as error:
            control.close()
            child_end.close()
            if board is not None:
                board.release(place)
            self._not_forked(slot, error)
            return None
        child_end.close()
        worker = Worker(pid, slot, control, time.monotonic(), place, in_flight)
        self.workers[pid] = worker
        self.selector.register(control, selectors.EVENT_READ, worker)
        if slot.current is None:
            slot.current = worker
        else:
            slot.replacement = worker
        return worker

    def _observed(self, slot: Slot) -> tuple[socket.socket | None, Board | None, int | None]:
        """Return the socket of the debug listener, for worker 0; the board, and a place on it."""
        if self.observation is None:
            return None, None, None
        board = self.observation.board
        return (self.observation.sockets.of(0) if slot.number == 0 else None), board, board.claim()

    def start_all(self, plan: Plan) -> None:
        """Start a worker in every slot."""
        for slot in self.slots:
            self.start(slot, plan)

    def start_due(self, plan: Plan, now: float) -> None:
        """Start workers in empty slots whose wait is over."""
        for slot in self.slots:
            if slot.backoff.is_due(now):
                self.start(slot, plan)

    def _not_forked(self, slot: Slot, error: OSError) -> None:
        _log.error("cannot start a worker", worker=slot.number, cause=str(error))
        if slot.current is None:
            self._start_later(slot)

    def _start_later(self, slot: Slot, lived_s: float = 0.0) -> None:
        wait_s = slot.backoff.after(time.monotonic(), lived_s)
        if wait_s:
            _log.warning("waiting before the next try", worker=slot.number, seconds=wait_s)
            self.sockets.withdraw(slot.number)

    def kill_overdue(self, now: float) -> None:
        """Kill workers that are not ready in time; `reap` removes them."""
        for worker in self.workers.values():
            if not worker.ready and now >= worker.started + _START_LIMIT_S:
                _log.error("a worker did not start in time and is killed", pid=worker.pid)
                worker.started = now
                _send(worker.pid, signal.SIGKILL)

    def due(self) -> list[float]:
        """Return when `start_due`, `kill_overdue`, `send_due_certificates` and `check_heartbeats` have work."""
        retries = [slot.backoff.at for slot in self.slots if slot.backoff.at is not None]
        starts = [each.started + _START_LIMIT_S for each in self.workers.values() if not each.ready]
        certificates = [
            each.certificate_backoff.at
            for each in self._with_old_certificate()
            if each.certificate_backoff.at is not None
        ]
        return [
            *retries,
            *starts,
            *certificates,
            *(each.last_heartbeat + HEARTBEAT_LIMIT_S for each in self._accepting() if not each.unresponsive),
        ]

    # Operation

    def receive(self, worker: Worker) -> bool:
        """Read messages of a worker; return whether it is a replacement that is ready to `take_over`."""
        try:
            received = worker.control.recv(16)
        except OSError:
            received = b""
        if not received:
            # Its end is handled when it is reaped.
            self.selector.unregister(worker.control)
        is_ready = False
        if received:
            self._record_heartbeat(worker)
        for message in (bytes([letter]) for letter in received.replace(HEARTBEAT, b"")):
            if message == READY:
                worker.ready = is_ready = True
            elif message == CERTIFICATE_LOADED:
                self._certificate_loaded(worker)
            elif message == CERTIFICATE_FAILED:
                worker.certificate_sent = False
                self._send_certificate_later(
                    worker, "the worker could not use it; its own line in the log has the cause"
                )
            elif message == DRAINING:
                self._draining(worker)
        return is_ready and worker is worker.slot.replacement

    def _draining(self, worker: Worker) -> None:
        """Send it no new connections, and report that: it accepts those in its queue and no more.

        Its socket stays open here for its successor.
        """
        if worker is worker.slot.current:
            self.sockets.exclude(worker.slot.number)
        with suppress(OSError):  # it waits for a second only
            worker.control.send(NO_NEW_CONNECTIONS, socket.MSG_DONTWAIT)

    def _accepting(self) -> Iterator[Worker]:
        """Yield the workers that get new connections."""
        for slot in self.slots:
            if slot.current is not None and slot.current.ready and not slot.current.retiring:
                yield slot.current

    def _record_heartbeat(self, worker: Worker) -> None:
        now = time.monotonic()
        silent_s = now - worker.last_heartbeat
        worker.last_heartbeat = now
        if worker.unresponsive:
            worker.unresponsive = False
            self.sockets.include(worker.slot.number)
            _log.warning(
                "a worker responds again", worker=worker.slot.number, pid=worker.pid, silent_s=round(silent_s)
            )

    def check_heartbeats(self, now: float) -> None:
        """Send the new connections of a worker whose event loop does not run to the others."""
        suspended = now - self.checked >= HEARTBEAT_LIMIT_S
        self.checked = now
        for worker in self._accepting():
            if suspended:  # the master itself was: it has read nothing meanwhile
                worker.last_heartbeat = now
            elif not worker.unresponsive and now >= worker.last_heartbeat + HEARTBEAT_LIMIT_S:
                worker.unresponsive = True
                self.sockets.exclude(worker.slot.number)
                others = "new connections wait" if len(self.slots) == 1 else "new connections go to the others"
                _log.warning(f"a worker does not respond; {others}", worker=worker.slot.number, pid=worker.pid)

    def take_over(self, worker: Worker) -> None:
        """Make a replacement the current worker of its slot, and retire the former one."""
        slot = worker.slot
        old = slot.current
        slot.current = worker
        slot.replacement = None
        slot.backoff.cancel()
        slot.backoff.forgive()
        if old is not None:
            self.sockets.include(slot.number)
            old.retiring = True
            try:
                old.control.send(RETIRE, socket.MSG_DONTWAIT)
            except OSError:
                _send(old.pid, signal.SIGTERM)

    # Certificates

    def send_certificate(self, plan: Plan) -> None:
        """Have all workers serve new connections with the certificate of `plan`.

        Each worker has at most one unanswered certificate in its control socket, and gets the newest one until it
        confirms: with an old certificate it would fail its clients once that expires.
        """
        now = time.monotonic()
        for worker in self.workers.values():
            worker.certificate_backoff.forgive()
            worker.certificate_backoff.after(now)
        self.send_due_certificates(plan, now)

    def send_due_certificates(self, plan: Plan, now: float) -> None:
        """Send the certificate of the current plan to workers that need it and whose wait is over."""
        due = [worker for worker in self._with_old_certificate() if worker.certificate_backoff.is_due(now)]
        if not due:
            return
        tls = plan.options.tls
        if tls is None:  # a reload has removed TLS
            for worker in due:
                worker.certificate_backoff.cancel()
            return
        try:
            data = SealedMemory("moorage certificates", pickle.dumps(tls))
        except (StartupError, OSError) as error:
            for worker in due:
                self._send_certificate_later(worker, str(error))
            return
        for worker in due:
            try:
                socket.send_fds(worker.control, [CERTIFICATE], [data.descriptor], socket.MSG_DONTWAIT)
            except ConnectionError:
                # It has died and is reaped soon; its successor gets the new plan.
                worker.certificate_backoff.cancel()
            except OSError as error:
                self._send_certificate_later(worker, str(error))
            else:
                worker.certificate_backoff.cancel()
                worker.certificate_sent = True

    def _with_old_certificate(self) -> Iterator[Worker]:
        """Yield the workers that need the certificate of the current plan and have answered earlier ones."""
        for worker in self.workers.values():
            if worker.certificate_backoff.at is not None and not worker.certificate_sent and not worker.retiring:
                yield worker

    def _send_certificate_later(self, worker: Worker, cause: str) -> None:
        wait_s = worker.certificate_backoff.after(time.monotonic())
        worker.certificate_failed = True
        _log.warning(
            "a worker does not serve the new certificate yet; it is sent again",
            worker=worker.slot.number, pid=worker.pid, cause=cause, seconds=wait_s,
        )  # fmt: skip

    def _certificate_loaded(self, worker: Worker) -> None:
        worker.certificate_sent = False
        if worker.certificate_backoff.at is not None:
            return  # a newer one is to be sent
        worker.certificate_backoff.forgive()
        if worker.certificate_failed:
            worker.certificate_failed = False
            _log.info("a worker serves the new certificate now", worker=worker.slot.number, pid=worker.pid)

    def has_unconfirmed_certificate(self) -> bool:
        """Return whether a worker has not confirmed a certificate yet."""
        return any(
            worker.certificate_sent or (worker.certificate_backoff.at is not None and not worker.retiring)
            for worker in self.workers.values()
        )

    def in_flight(self) -> int:
        """Return the number of running requests, those of retiring workers included."""
        return sum(worker.in_flight.value for worker in self.workers.values())

    def has_starting(self) -> bool:
        return any(not each.ready for each in self.workers.values())

    def has_ready(self) -> bool:
        return any(each.ready for each in self.workers.values())

    def has_current(self) -> bool:
        return any(slot.current is not None and slot.current.ready for slot in self.slots)

    # End

    def reap(self, pid: int) -> Worker | None:
        """Remove a worker that has ended; None if `pid` is not a worker."""
        worker = self.workers.pop(pid, None)
        if worker is None:
            return None
        if worker.control.fileno() in self.selector.get_map():
            self.selector.unregister(worker.control)
        worker.control.close()
        if self.observation is not None:
            self.observation.board.release(worker.place)
        return worker

    def ended_unexpectedly(self, worker: Worker, status: int) -> bool:
        """Handle the end of a worker while the server runs: another takes its place, unless it was retiring.

        Return whether it was a replacement, whose slot keeps the current worker: the rolling restart is over.
        """
        slot = worker.slot
        if worker.retiring:
            _log.debug("old worker has ended", pid=worker.pid)
            return False
        how = describe_exit(status)
        if worker is slot.replacement:
            slot.replacement = None
            _log.error("the new worker could not start: the old ones stay", pid=worker.pid, ended=how)
            if slot.current is None:  # the current one died meanwhile
                self._start_later(slot)
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
        if slot.replacement is not None:
            return False
        self._start_later(slot, time.monotonic() - worker.started if worker.ready else 0.0)
        return False

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all workers."""
        for pid in list(self.workers):
            _send(pid, number)

    def kill_all(self) -> None:
        """Send SIGKILL to all workers and reap them."""
        self.signal_all(signal.SIGKILL)
        for pid in list(self.workers):
            os.waitpid(pid, 0)
            self.workers.pop(pid).control.close()

    def close_sockets(self) -> None:
        """Close the listening sockets in the master: no more connections."""
        self.sockets.close()
        if self.observation is not None:
            self.observation.sockets.close()

    def close_in_child(self, keep: tuple[socket.socket | None, ...]) -> None:
        """Close the sockets of the master in a child, or their closing would not be detected."""
        for worker in self.workers.values():
            worker.control.close()
        observed = [] if self.observation is None else self.observation.sockets.sockets
        for one in (*self.sockets.sockets, *observed):
            if one is not None and one not in keep:
                one.close()


def describe_exit(status: int) -> str:
    """Return text about the end of a process for the log; `status` is from `os.waitstatus_to_exitcode`."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
