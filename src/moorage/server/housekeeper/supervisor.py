"""The master's side of the housekeeper: starts it if there is a job, restarts it, and reads its messages."""

from __future__ import annotations

import os
import select
import selectors
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

from moorage.server.housekeeper import process
from moorage.server.housekeeper.mail_job import mail_jobs
from moorage.server.housekeeper.process import (
    CERTIFICATE_WRITTEN,
    NAME,
    RELOADED,
    STOP,
    STOPPED,
    HousekeeperParameters,
)
from moorage.server.processes.helper_process import ControlledProcess, wait_for_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from moorage.config.model import Settings
    from moorage.logs.mail_hook import MailQueue
    from moorage.server.housekeeper.jobs import Job
    from moorage.server.processes.worker_config import Plan

    JobSource = Callable[[Plan], Sequence[Job]]

__all__ = ["Housekeeper", "JobSource"]

_REPLACE_LIMIT_S: Final = 30.0
"""Seconds until a housekeeper that is to be replaced is killed; it may be sending mails."""
_EXIT_LIMIT_S: Final = 5.0
"""Seconds that the shutdown waits for the last mails; the process continues to send after that."""
_STOP_LIMIT_S: Final = 3.0
"""Seconds that the shutdown waits for STOPPED; the jobs have two to clean up."""
_MESSAGE_BYTES: Final = 64


class Housekeeper(ControlledProcess[HousekeeperParameters]):
    """`sources` return the jobs that a plan needs; `mail` is the queue of log lines for `log.hooks`.

    `http` is the listening socket for challenges of ACME, which no other process keeps.
    """

    name: ClassVar[str] = NAME

    def __init__(self, sources: Sequence[JobSource], mail: MailQueue, http: socket.socket | None = None) -> None:
        super().__init__()
        self._sources = sources
        self._mail = mail
        self._http = http
        self._computed_for: tuple[Settings, bool] | None = None
        self._computed: HousekeeperParameters | None = None
        self._control: socket.socket | None = None
        self._child_end: socket.socket | None = None
        self._selector: selectors.BaseSelector | None = None
        self._has_stopped = False
        self._ignore_at: float | None = None
        """Time from which the shutdown no longer waits for a process that does not confirm STOP."""

    def register(self, selector: selectors.BaseSelector) -> None:
        """Register the control socket of each process with `selector`; the data of its key is this object."""
        self._selector = selector

    # The process

    def parameters(self, plan: Plan) -> HousekeeperParameters | None:
        # Called several times a second.
        if self._computed_for is None or self._computed_for != (plan.settings, plan.awaiting):
            self._computed_for = (plan.settings, plan.awaiting)
            self._computed = self._compute(plan)
        return self._computed

    def _compute(self, plan: Plan) -> HousekeeperParameters | None:
        log = plan.settings.log
        jobs = (*(job for source in self._sources for job in source(plan)), *mail_jobs(log, self._mail))
        if not jobs:
            return None
        return HousekeeperParameters(jobs, log, plan.instance, self._mail.processors(log))

    def main(self, parameters: HousekeeperParameters) -> Callable[[], NoReturn]:
        control, child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.setblocking(False)
        self._control = control
        self._child_end = child_end
        master = os.getpid()

        def become() -> NoReturn:
            control.close()
            process.main(parameters, child_end, master)

        return become

    @property
    def inherited(self) -> tuple[socket.socket | None, ...]:
        return (self._http,)

    def forked(self) -> None:
        self._close_child_end()
        assert self._control is not None
        if self._selector is not None:
            self._selector.register(self._control, selectors.EVENT_READ, self)

    def due(self) -> list[float]:
        waits = self._ignore_at is not None and not self.has_stopped
        return [*super().due(), *([self._ignore_at] if waits and self._ignore_at is not None else [])]

    def died(self, how: str, now: float) -> None:
        self._close_child_end()
        self._disconnect()
        super().died(how, now)

    def end(self, now: float) -> None:
        self._disconnect()
        self._kill_at = now + _REPLACE_LIMIT_S

    def kill(self) -> None:
        """End the process: it sends the last mails, if there are hooks; others are killed."""
        self.stop()
        if self.pid is not None and self._parameters is not None and self._parameters.has_last_job:
            responds = self._wait_stopped()
            self._disconnect()
            has_exited = wait_for_exit(self.pid, _EXIT_LIMIT_S)
            self._mail.has_other_reader = responds and not has_exited
            if responds or has_exited:
                self.pid = None
        self._disconnect()
        super().kill()

    def _wait_stopped(self) -> bool:
        """Return whether the process confirms the shutdown in time, counted from `stop`."""
        deadline = self._ignore_at or 0.0
        while self._control is not None and not self._has_stopped:
            readable, _, _ = select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                break
            self.receive()
        return self._has_stopped

    # Messages

    @property
    def has_stopped(self) -> bool:
        """Return whether all jobs but the last ones have ended, after `stop`; a process that hangs is ignored."""
        ignored = self._ignore_at is not None and time.monotonic() >= self._ignore_at
        return self.pid is None or self._has_stopped or ignored

    def reloaded(self) -> None:
        """Report that the configuration was read again: a job that waits after a failure may try again now."""
        self._send(RELOADED)

    def stop(self) -> None:
        if not self._stopping:
            self._send(STOP)
            self._ignore_at = time.monotonic() + _STOP_LIMIT_S
            if self._http is not None:
                self._http.close()
        super().stop()

    def receive(self) -> bool:
        """Read the messages of the process; return whether there is a new certificate."""
        written = False
        while self._control is not None:
            try:
                message = self._control.recv(_MESSAGE_BYTES)
            except OSError:
                break
            if not message:
                # The process is reaped soon.
                self._disconnect()
            elif message == CERTIFICATE_WRITTEN:
                written = True
            elif message == STOPPED:
                self._has_stopped = self._stopping
        return written

    def _send(self, message: bytes) -> None:
        if self._control is not None:
            # A dead process is reaped soon.
            with suppress(OSError):
                self._control.send(message)

    # Sockets

    def close_in_child(self, keep: tuple[socket.socket | None, ...]) -> None:
        if self._control is not None:
            self._control.close()
        if self._http is not None and self._http not in keep:
            self._http.close()

    def _disconnect(self) -> None:
        """Close the control socket: a process that still runs cleans up and exits."""
        if self._control is not None:
            if self._selector is not None and self._control.fileno() in self._selector.get_map():
                self._selector.unregister(self._control)
            self._control.close()
            self._control = None

    def _close_child_end(self) -> None:
        if self._child_end is not None:
            self._child_end.close()
            self._child_end = None
