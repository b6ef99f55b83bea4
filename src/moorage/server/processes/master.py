"""Master process: forks children, handles signals and the messages of the children, shuts down.

    starting ─► awaiting a certificate ─► serving
          └──────────────────────┴───────────┴── SIGTERM, SIGINT ─► stopping ─► ended

    starting, but no worker can start: ended      stopping, and a second signal or a timeout: all are killed, ended

SIGTERM, SIGINT   stop accepting, let the workers drain for `http.draintimeout`; the second one kills them
SIGHUP            load the configuration again; worker by worker, start a new one, then retire the old one
SIGQUIT           stacks of all processes to standard error
SIGCHLD           reap dead children and replace them

    master.py ──► rolling_restart.py               the current plan, and the rolling restart to another one
              ──► worker_pool.py                   the workers
              ──► server/housekeeper/supervisor.py one process for background work
              ──► storage_monitor.py               one process that checks the data directory

One thread, one loop: signals and control sockets wake it, and being single-threaded it may fork at any time.  Its
exit status is 0 if every request was answered, else 1.
"""

from __future__ import annotations

import faulthandler
import os
import selectors
import signal
import socket
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from moorage.server.options import ServerOptions
from moorage.server.processes.protocol import START_FAILED
from moorage.server.processes.rolling_restart import RollingRestart
from moorage.server.processes.systemd import notify
from moorage.server.processes.worker_pool import Slot, Worker, WorkerPool, describe_exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from moorage.logs.mail_hook import MailQueue
    from moorage.server.listeners import Sockets
    from moorage.server.processes.helper_process import ControlledProcess, HelperProcess
    from moorage.server.processes.storage_monitor import StorageMonitor
    from moorage.server.processes.worker_config import Plan
    from moorage.server.telemetry import Observation

__all__ = ["Master"]

_KILL_AFTER_S: Final = 9.0
"""Seconds beyond `http.draintimeout` for a worker to close files and send spans."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)
_log: Final = structlog.get_logger("moorage.server")


class Master:
    """The master.  `reload` and `renew` are those of `RollingRestart`; `announce` is called when workers serve.

    `observation`, if there is a debug listener, is its socket and the board of the workers' metrics.  `mail` is
    the queue of log lines for mails.
    """

    def __init__(
        self,
        plan: Plan,
        sockets: Sockets,
        reload: Callable[[Plan], Plan],
        renew: Callable[[Plan], Plan],
        announce: Callable[[Plan, Sockets], None],
        observation: Observation | None,
        housekeeper: ControlledProcess[Any],
        monitor: StorageMonitor | None,
        mail: MailQueue,
    ) -> None:
        self._sockets = sockets
        self._announce = announce
        self._housekeeper = housekeeper
        self._helpers: list[HelperProcess[Any]] = [housekeeper, *([] if monitor is None else [monitor])]
        self._selector = selectors.DefaultSelector()
        housekeeper.register(self._selector)
        slots = [Slot(number) for number in range(plan.workers)]
        storage = None if monitor is None else monitor.report
        self._pool = WorkerPool(slots, sockets, self._selector, self._fork, observation, mail, storage)
        self._rolling_restart = RollingRestart(plan, self._pool, reload, renew, housekeeper.reloaded)
        self._stop_at: float | None = None
        self._stopping_since = 0.0
        self._status = 0
        self._failed_start = False
        self._was_ready = False

    def run(self) -> int:
        """Serve until a signal stops the server; return the exit status."""
        wakeups, signals = socket.socketpair()
        for end in (wakeups, signals):
            end.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, _wake_up)
        signal.set_wakeup_fd(signals.fileno(), warn_on_full_buffer=False)
        self._selector.register(wakeups, selectors.EVENT_READ, None)
        try:
            self._pool.start_all(self._rolling_restart.plan)
            while not self._finished():
                self._step(wakeups)
        finally:
            signal.set_wakeup_fd(-1)
            self._kill_all()
            self._pool.close_sockets()
            self._sockets.remove()
        if self._stop_at is not None:
            seconds = round(time.monotonic() - self._stopping_since, 3)
            _log.info("stopped", seconds=seconds, status=self._status)
        return self._status

    def _finished(self) -> bool:
        ended = not self._pool.workers and self._housekeeper.has_stopped
        return self._failed_start or (self._stop_at is not None and ended)

    def _step(self, wakeups: socket.socket) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            if key.data is None:
                self._handle_signals(wakeups.recv(4096))
            elif isinstance(key.data, Worker):
                if self._pool.receive(key.data):
                    self._pool.take_over(key.data)
                    self._rolling_restart.taken_over()
            elif self._housekeeper.receive():
                self._rolling_restart.certificate_written()
        # Without waiting for a signal: one may get lost when many come at once.
        self._reap()
        self._run_due()
        self._announce_when_ready()

    def _wait_s(self) -> float | None:
        """Return the seconds until the next deadline; None without one."""
        due = [*self._pool.due(), *self._rolling_restart.due()]
        for helper in self._helpers:
            due += helper.due()
        if self._stop_at is not None:
            due = [self._stop_at, *self._housekeeper.due()]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _handle_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._stop(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                self._rolling_restart.reload()
            elif number == signal.SIGQUIT:
                faulthandler.dump_traceback(all_threads=True)
                self._pool.signal_all(signal.SIGQUIT)

    def _reap(self) -> None:
        while True:
            try:
                pid, waited = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            status = os.waitstatus_to_exitcode(waited)
            helper = next((helper for helper in self._helpers if helper.pid == pid), None)
            if helper is not None:
                helper.died(describe_exit(status), time.monotonic())
            elif (worker := self._pool.reap(pid)) is not None:
                self._worker_died(worker, status)
            # As process 1 of a container the master also reaps orphans of other processes.

    def _worker_died(self, worker: Worker, status: int) -> None:
        if self._stop_at is not None:
            self._status = self._status or int(status != 0)
        elif self._pool.ended_unexpectedly(worker, status):
            self._rolling_restart.abort()

    def _run_due(self) -> None:
        now = time.monotonic()
        if self._stop_at is not None:
            if now >= self._stop_at:
                if self._pool.workers:
                    _log.error("workers did not end in time and are killed", workers=len(self._pool.workers))
                    self._status = 1
                self._kill_all()
            return
        for helper in self._helpers:
            helper.settle(self._rolling_restart.plan, partial(self._fork_helper, helper), now)
        self._pool.kill_overdue(now)
        self._pool.check_heartbeats(now)
        self._pool.send_due_certificates(self._rolling_restart.plan, now)
        if self._rolling_restart.has_begun or self._rolling_restart.plan.awaiting:
            self._pool.start_due(self._rolling_restart.plan, now)
        self._rolling_restart.run_due(now)

    def _announce_when_ready(self) -> None:
        """Announce the start, or give up, once all first workers are ready or dead and have a certificate."""
        if self._rolling_restart.has_begun or self._stop_at is not None or self._pool.has_starting():
            return
        if not self._pool.has_ready():
            # While a certificate is awaited, workers that die later are started again.
            if not self._was_ready:
                _log.critical("no worker could start; see the errors above")
                self._status = 1
                self._failed_start = True
            return
        self._was_ready = True
        if self._rolling_restart.plan.awaiting or self._pool.has_unconfirmed_certificate():
            return
        self._announce(self._rolling_restart.plan, self._sockets)
        notify("READY=1")
        self._rolling_restart.begin()

    # Children

    def _fork_helper(self, helper: HelperProcess[Any], become: Callable[[], NoReturn]) -> int:
        """Fork a process that serves no requests, without the private key."""
        return self._fork(replace(self._rolling_restart.plan, options=ServerOptions()), become, helper.inherited)

    def _fork(self, plan: Plan, become: Callable[[], NoReturn], keep: tuple[socket.socket | None, ...]) -> int:
        """Fork a child that runs `become` with `plan` (`worker_pool.Fork`).  Raises OSError."""
        # Before the child has its own handlers its signals would wake the master.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        if pid == 0:
            try:
                self._close_in_child(keep)
                self._rolling_restart.keep_only(plan)
                become()
            except BaseException:  # noqa: BLE001  logged: the child ends
                _log.exception("a process failed right after the fork")
            finally:
                # An exception must not reach the loop of the master, which the child would continue.
                os._exit(START_FAILED)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def _close_in_child(self, keep: tuple[socket.socket | None, ...]) -> None:
        """Release the master's resources in a child, or the closing of sockets would not be detected."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            # The terminal sends these to the whole process group; the master alone handles them.
            signal.signal(number, signal.SIG_IGN)
        self._selector.close()
        self._pool.close_in_child(keep)
        for helper in self._helpers:
            helper.close_in_child(keep)

    # Shutdown

    def _stop(self, name: str) -> None:
        if self._stop_at is not None:
            _log.warning("second signal to stop: ending at once, running requests are cut off", signal=name)
            self._status = 1
            self._kill_all()
            return
        limit = self._rolling_restart.plan.settings.http.draintimeout
        _log.info("stopping", signal=name, drain_seconds=limit, requests=self._pool.in_flight())
        notify("STOPPING=1")
        self._stopping_since = time.monotonic()
        self._stop_at = self._stopping_since + limit + _KILL_AFTER_S
        self._rolling_restart.end()
        self._pool.close_sockets()
        for helper in self._helpers:
            helper.stop()
        self._pool.signal_all(signal.SIGTERM)

    def _kill_all(self) -> None:
        """Kill all children and wait for their end."""
        self._pool.kill_all()
        for helper in self._helpers:
            helper.kill()


def _wake_up(_: int, __: object) -> None:
    """Do nothing: the wake-up socket delivers the signal number to the loop."""
