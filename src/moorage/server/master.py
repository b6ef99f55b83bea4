"""The master: forks the workers, replaces those that die, passes on what the operator says.  Serves nothing.

    slot 0 ─ socket 0 ─ worker            one thread, one loop: signals and control sockets wake it
    slot 1 ─ socket 1 ─ worker ─ (newer worker, while SIGHUP replaces it)
    ...

SIGTERM, SIGINT   stop accepting, let the workers drain for `http.draintimeout`; the second one kills them
SIGHUP            load the configuration again; worker by worker, start a new one, then retire the old one
new certificates  (`renewal.py`) the same without loading the configuration
SIGQUIT           stacks of everything to standard error
SIGCHLD           bury the dead and replace them: at once, then after 1, 2, 4 ... 30 seconds

If certificates come by ACME there is one more process (`companion.py`), and no worker before there is one.

Being single-threaded, it may fork at any time.  Its exit status is 0 if every request was answered, else 1.
"""

from __future__ import annotations

import faulthandler
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import structlog

from moorage.server.granian import ServerOptions
from moorage.server.listen import Cannot
from moorage.server.renewal import POLL_S
from moorage.server.systemd import notify, reloading
from moorage.server.worker import PAUSED, READY, RESUMED, RETIRE, START_FAILED, Job, main

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from moorage.config.model import Settings
    from moorage.metrics.board import Board
    from moorage.server.companion import Companion
    from moorage.server.listen import Sockets
    from moorage.server.observing import Observation
    from moorage.server.plan import Plan

__all__ = ["Master"]

_START_LIMIT_S: Final = 60.0
_KILL_AFTER_S: Final = 9.0
"""How much longer than `http.draintimeout` a worker may take: it closes files and sends spans in that time."""

_PATIENCE_S: Final = 60.0
"""What a service manager is asked for, again and again, while there is no certificate."""

_BACK_OFF_S: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_STEADY_S: Final = 30.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)
_log: Final = structlog.get_logger("moorage.server")


@dataclass(eq=False, slots=True)
class _Worker:
    pid: int
    slot: _Slot
    control: socket.socket
    started: float
    place: int | None = None
    ready: bool = False
    retiring: bool = False
    told: bool = False
    paused: bool = False


@dataclass(eq=False, slots=True)
class _Slot:
    """A place for one worker.  `fresh` is the one that is to take over; `retry_at` when to try again."""

    number: int
    current: _Worker | None = None
    fresh: _Worker | None = None
    failures: int = 0
    retry_at: float | None = None


@dataclass(slots=True)
class Master:
    """`plan` is what workers are made from; `reload` and `renew` make another one and raise `Cannot`.

    `reload` reads the configuration again, `renew` only the certificates; it returns the same plan if they are the
    same.  `observation`, if there is a debug listener, is its socket and the board that workers show their numbers
    on.
    """

    plan: Plan
    sockets: Sockets
    reload: Callable[[Plan], Plan]
    renew: Callable[[Plan], Plan]
    announce: Callable[[Plan, Sockets], None]
    observation: Observation | None = None
    companion: Companion | None = None
    _slots: list[_Slot] = field(default_factory=list)
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _to_replace: list[_Slot] = field(default_factory=list)
    _next: Plan | None = None
    _renewing: bool = False
    _reload_again: bool = False
    _announced: bool = False
    _stop_at: float | None = None
    _look_at: float = 0.0
    _status: int = 0
    _failed_start: bool = False

    def run(self) -> int:
        """Serve until told to stop; the exit status."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        for number in _SIGNALS:
            signal.signal(number, _noted)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._selector.register(ours, selectors.EVENT_READ, None)
        self._slots = [_Slot(number) for number in range(self.plan.workers)]
        try:
            self._start_companion()
            if not self.plan.awaiting:
                self._start_all()
            while not self._finished():
                self._step(ours)
        finally:
            signal.set_wakeup_fd(-1)
            self._kill_all()
            self._close_sockets()
            self.sockets.remove()
        return self._status

    def _finished(self) -> bool:
        ended = not self._workers and (self.companion is None or self.companion.ended)
        return self._failed_start or (self._stop_at is not None and ended)

    def _step(self, wakeups: socket.socket) -> None:
        for key, _ in self._selector.select(self._wait_s()):
            if key.data is None:
                self._heed(wakeups.recv(4096))
            elif isinstance(key.data, _Worker):
                self._hear(key.data)
            else:
                self._hear_companion(key.data)
        # Without waiting for a signal: one may get lost when many come at once.
        self._bury()
        self._keep_time()
        self._settle()
        if self.companion is not None and self._announced and self._stop_at is None:
            self.companion.settle(self._workers.values())

    def _wait_s(self) -> float | None:
        """Until something is due."""
        due = [slot.retry_at for slot in self._slots if slot.retry_at is not None]
        due += [each.started + _START_LIMIT_S for each in self._workers.values() if not each.ready]
        if self._looks() or self.plan.awaiting:
            due.append(self._look_at)
        if self.companion is not None and self.companion.retry_at is not None:
            due.append(self.companion.retry_at)
        if self._stop_at is not None:
            due = [self._stop_at]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _heed(self, numbers: bytes) -> None:
        for number in numbers:
            if number in {signal.SIGTERM, signal.SIGINT}:
                self._stop(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                self._begin_reload()
            elif number == signal.SIGQUIT:
                faulthandler.dump_traceback(all_threads=True)
                self._tell_all(signal.SIGQUIT)

    # Starting and burying

    def _start(self, slot: _Slot, plan: Plan) -> _Worker | None:
        """Fork a worker into a slot; beside the current one, if there is one."""
        slot.retry_at = None
        try:
            listening = self.sockets.of(slot.number)
            ours, theirs = socket.socketpair()
        except OSError as error:
            _log.error("cannot start a worker", worker=slot.number, cause=str(error))
            self._later(slot)
            return None
        debug, board, place = self._observed(slot)
        job = Job(slot.number, plan.settings, plan.builder(slot.number), listening, theirs, plan.options,
                  plan.instance, os.getpid(), debug, board, place,
                  self.companion.relay if self.companion else None)  # fmt: skip

        def become() -> NoReturn:
            ours.close()
            self.plan, self._next = plan, None
            main(job)

        pid = self._fork(become, listening, debug)
        theirs.close()
        worker = _Worker(pid, slot, ours, time.monotonic(), place)
        self._workers[pid] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)
        if slot.current is None:
            slot.current = worker
        else:
            slot.fresh = worker
        return worker

    def _observed(self, slot: _Slot) -> tuple[socket.socket | None, Board | None, int | None]:
        """The debug listener's socket, for worker 0; the board, and a place on it."""
        if self.observation is None:
            return None, None, None
        board = self.observation.board
        return (self.observation.sockets.of(0) if slot.number == 0 else None), board, board.claim()

    def _start_all(self) -> None:
        for slot in self._slots:
            self._start(slot, self.plan)

    def _fork(self, become: Callable[[], NoReturn], *keep: socket.socket | None) -> int:
        """The child's process id.  Of the listening sockets it keeps these."""
        # A signal between fork and the child's own handlers would wake us in its place.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become(keep)
            become()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def _become(self, keep: tuple[socket.socket | None, ...]) -> None:
        """In the child: drop what is the master's, or sockets and deaths would go unnoticed."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP):
            # The terminal sends these to the whole group; the master says what is to be done.
            signal.signal(number, signal.SIG_IGN)
        self._selector.close()
        for worker in self._workers.values():
            worker.control.close()
        if self.companion is not None:
            self.companion.forget(keep)
        observed = [] if self.observation is None else self.observation.sockets.sockets
        for one in (*self.sockets.sockets, *observed):
            if one is not None and one not in keep:
                one.close()

    def _hear(self, worker: _Worker) -> None:
        """What a worker says; its end is noticed by `_bury`."""
        try:
            heard = worker.control.recv(16)
        except OSError:
            heard = b""
        if not heard:
            self._selector.unregister(worker.control)
        for word in (bytes([letter]) for letter in heard):
            if word == READY:
                worker.ready = True
                if worker is worker.slot.fresh:
                    self._take_over(worker)
            elif word in {PAUSED, RESUMED}:
                worker.paused = word == PAUSED

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.companion is not None and pid == self.companion.pid:
                self.companion.died(_ended(os.waitstatus_to_exitcode(status)))
                continue
            # As process 1 of a container we also inherit children that are not ours.
            if (worker := self._workers.pop(pid, None)) is not None:
                self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: _Worker, status: int) -> None:
        if worker.control.fileno() in self._selector.get_map():
            self._selector.unregister(worker.control)
        worker.control.close()
        if self.observation is not None:
            self.observation.board.bury(worker.place)
        slot = worker.slot
        if self._stop_at is not None:
            self._status = self._status or int(status != 0)
            return
        if worker.retiring:
            _log.debug("old worker has ended", pid=worker.pid)
            return
        how = _ended(status)
        if worker is slot.fresh:
            slot.fresh = None
            _log.error("the new worker could not start: the old ones stay", pid=worker.pid, ended=how)
            self._abort_reload()
            return
        slot.current = None
        if status == 0:
            _log.warning("a worker was told to end; another takes its place", worker=slot.number, pid=worker.pid)
        elif status == START_FAILED and not worker.ready:
            _log.error("a worker could not start", worker=slot.number, pid=worker.pid)
        else:
            _log.error("a worker died; another takes its place", worker=slot.number, pid=worker.pid, ended=how)
        if slot.fresh is not None:
            return
        if worker.ready and time.monotonic() - worker.started > _STEADY_S:
            slot.failures = 0
        self._later(slot)

    def _later(self, slot: _Slot) -> None:
        wait_s = _BACK_OFF_S[min(slot.failures, len(_BACK_OFF_S) - 1)]
        slot.failures += 1
        slot.retry_at = time.monotonic() + wait_s
        if wait_s:
            _log.warning("waiting before the next try", worker=slot.number, seconds=wait_s)
            self.sockets.withdraw(slot.number)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._stop_at is not None:
            if now >= self._stop_at:
                if self._workers:
                    _log.error("workers did not end in time and are killed", workers=len(self._workers))
                    self._status = 1
                self._kill_all()
            return
        if self.companion is not None and self.companion.retry_at is not None and now >= self.companion.retry_at:
            self._start_companion()
        for worker in self._workers.values():
            if not worker.ready and now >= worker.started + _START_LIMIT_S:
                _log.error("a worker did not start in time and is killed", pid=worker.pid)
                worker.started = now
                _send(worker.pid, signal.SIGKILL)
        if self.plan.awaiting and now >= self._look_at:
            self._look_at = now + _PATIENCE_S / 3
            self._wait_on(now)
        if not self._announced:
            return
        for slot in self._slots:
            if slot.retry_at is not None and now >= slot.retry_at:
                self._start(slot, self.plan)
        if self._looks() and now >= self._look_at:
            self._look_at = now + POLL_S
            self._look(now)

    def _settle(self) -> None:
        """Once every first worker is ready or dead: say so, or give up."""
        if self._announced or self._stop_at is not None or self.plan.awaiting or self._has_starting():
            return
        if not self._has_ready():
            _log.critical("no worker could start; see the errors above")
            self._status, self._failed_start = 1, True
            return
        if self.companion is not None and self.companion.holds:
            # Until it has gone some clients would still be refused.
            self.companion.leave()
            return
        self._announced = True
        self.announce(self.plan, self.sockets)
        notify("READY=1")
        self._reload_as_told()

    def _has_starting(self) -> bool:
        return any(not each.ready for each in self._workers.values())

    def _has_ready(self) -> bool:
        return any(each.ready for each in self._workers.values())

    def _has_current(self) -> bool:
        return any(slot.current is not None and slot.current.ready for slot in self._slots)

    # Certificates by ACME

    def _start_companion(self) -> None:
        if (companion := self.companion) is None:
            return

        def fork(become: Callable[[], NoReturn]) -> int:
            def forgetful() -> NoReturn:
                self.plan, self._next = replace(self.plan, options=ServerOptions()), None
                become()

            return self._fork(forgetful, companion.http)

        companion.start(self.plan, self._selector, fork)

    def _hear_companion(self, companion: Companion) -> None:
        if companion.hear() and (self.plan.awaiting or self._looks()):
            # As if it had stood still for long: whoever tells us has written it whole.
            now = time.monotonic()
            self.plan.watched.due(now)
            if self.plan.awaiting:
                self._take_first(now)
            else:
                self._take(now)

    def _wait_on(self, now: float) -> None:
        """Nothing can be served yet; a service manager would take that for a start that hangs."""
        notify(f"EXTEND_TIMEOUT_USEC={round(_PATIENCE_S * 1_000_000)}")
        if self.plan.watched.due(now):
            self._take_first(now)

    def _take_first(self, now: float) -> None:
        """There is a certificate at last."""
        watched = self.plan.watched
        try:
            self.plan = self.renew(self.plan)
        except Cannot as error:
            watched.refuse(str(error), now)
            _log.error("the certificate cannot be served", cause=str(error))
            return
        watched.accept(now)
        self._start_all()

    def _tell_companion(self, old: Settings) -> None:
        """The configuration has been loaded again."""
        before, after = old.http, self.plan.settings.http
        if self.companion is None:
            return
        if before.tls.letsencrypt == after.tls.letsencrypt and before.host == after.host:
            self.companion.again()
        else:
            self.companion.replace()

    # Replacing everybody

    def _begin_reload(self) -> None:
        if self._stop_at is not None:
            return
        if self.plan.awaiting:
            self._reload_waiting()
            return
        if self._next is not None or not self._announced:
            self._reload_again = True
            return
        reloading()
        try:
            self._next = self.reload(self.plan)
        except Cannot as error:
            _log.error("the configuration is not taken; the old one stays", cause=str(error))
            notify("READY=1")
            return
        self._to_replace = list(self._slots)
        self._replace_next()

    def _reload_waiting(self) -> None:
        """There are no workers yet, so the companion alone hears of what has changed."""
        old = self.plan.settings
        try:
            self.plan = self.reload(self.plan)
        except Cannot as error:
            _log.error("the configuration is not taken; the old one stays", cause=str(error))
            return
        _log.info("configuration reloaded", source=self.plan.source)
        self._tell_companion(old)
        if not self.plan.awaiting:
            self._start_all()

    def _looks(self) -> bool:
        """Whether to look for other certificates; not while workers are being replaced, or there is none to be."""
        settled = self._announced and self._next is None
        return settled and bool(self.plan.watched.paths) and self._has_current()

    def _look(self, now: float) -> None:
        watched = self.plan.watched
        if watched.due(now):
            self._take(now)
        if complaint := watched.complaint(now):
            _log.error("the renewed certificate is not taken; the old one stays", cause=complaint)

    def _take(self, now: float) -> None:
        """Serve what lies there now, if that is possible and something else than before."""
        watched = self.plan.watched
        try:
            renewed = self.renew(self.plan)
        except Cannot as error:
            watched.refuse(str(error), now)
            return
        watched.accept(now)
        if renewed is not self.plan:
            self._next, self._renewing = renewed, True
            self._to_replace = list(self._slots)
            self._replace_next()

    def _replace_next(self) -> None:
        while self._to_replace and self._next is not None:
            slot = self._to_replace.pop(0)
            worker = self._start(slot, self._next)
            if worker is not None and worker is slot.fresh:
                return
            # The slot was empty, so nobody waits for this one; `_bury` sees if it does not come up.
        self._end_reload()

    def _take_over(self, worker: _Worker) -> None:
        slot = worker.slot
        old, slot.current, slot.fresh = slot.current, worker, None
        slot.failures, slot.retry_at = 0, None
        if self._next is not None:
            # It has proved to work, so whoever is replaced from now on gets the new configuration.
            # (The old plan is not kept here: workers that are forked below would have its private key.)
            before, self.plan = self.plan.settings, self._next
            if before is not self.plan.settings:
                self._tell_companion(before)
        if old is not None:
            old.retiring = True
            try:
                old.control.send(RETIRE)
            except OSError:
                _send(old.pid, signal.SIGTERM)
        self._replace_next()

    def _abort_reload(self) -> None:
        self._to_replace = []
        self._end_reload()

    def _end_reload(self) -> None:
        if self._next is not None and self.plan is self._next:
            if self._renewing:
                tls = self.plan.options.tls
                until = tls.until.isoformat() if tls else ""
                _log.info("certificate renewed", certificate=self.plan.watched.paths[0], until=until)
            else:
                _log.info("configuration reloaded", source=self.plan.source)
        self._next, self._renewing = None, False
        notify("READY=1")
        self._reload_as_told()

    def _reload_as_told(self) -> None:
        """For a SIGHUP that came while there was no time for it."""
        if self._reload_again:
            self._reload_again = False
            self._begin_reload()

    # Ending

    def _stop(self, name: str) -> None:
        if self._stop_at is not None:
            _log.warning("told twice to stop: ending at once", signal=name)
            self._status = 1
            self._kill_all()
            return
        limit = self.plan.settings.http.draintimeout
        _log.info("stopping", signal=name, drain_seconds=limit)
        notify("STOPPING=1")
        self._stop_at = time.monotonic() + limit + _KILL_AFTER_S
        self._close_sockets()
        if self.companion is not None:
            self.companion.end()
        self._tell_all(signal.SIGTERM)

    def _close_sockets(self) -> None:
        self.sockets.close()
        if self.observation is not None:
            self.observation.sockets.close()

    def _tell_all(self, number: signal.Signals) -> None:
        for pid in list(self._workers):
            _send(pid, number)

    def _kill_all(self) -> None:
        """SIGKILL, and wait until they are gone: nothing of ours outlives this."""
        self._tell_all(signal.SIGKILL)
        for pid in list(self._workers):
            os.waitpid(pid, 0)
            self._workers.pop(pid).control.close()
        if self.companion is not None:
            self.companion.kill()


def _noted(_: int, __: object) -> None:
    """The wake-up socket tells the loop which signal came."""


def _ended(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
