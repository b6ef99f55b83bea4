"""Helper processes: processes of the node that serve no requests, forked and supervised by the master.

    settle ──fork──► run_helper: signals, log ──► the process's own loop
       │
       ├── died: started again, after a wait that grows (`restart_backoff.py`)
       └── other settings: replaced

Above: `master.py`.  Kinds: `storage_monitor.py`, `server/housekeeper/supervisor.py`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final, Generic, TypeVar

import structlog

from moorage.logs import log_setup
from moorage.server.processes.protocol import START_FAILED, die_with
from moorage.server.processes.restart_backoff import RestartBackoff

if TYPE_CHECKING:
    import selectors
    import socket
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from structlog.typing import Processor

    from moorage.config.sections.log import Log
    from moorage.server.processes.worker_config import Plan

__all__ = ["ControlledProcess", "HelperProcess", "run_helper", "wait_for_exit"]

_PR_SET_NAME: Final = 15
_log: Final = structlog.get_logger("moorage.server")

P = TypeVar("P")


def run_helper(
    name: str,
    run: Callable[[], object],
    *,
    log: Log,
    instance: str,
    master: int,
    processors: Sequence[Processor] = (),
    outlives_master: bool = False,
) -> NoReturn:
    """Become the helper process `name` after a fork: set up signals and the log, then `run`.  Never returns.

    SIGTERM is ignored: service managers send it to every process of the group, and the master ends helpers.
    The kernel kills the process when the master ends, unless `outlives_master`: then `run` must detect that.
    """
    try:
        if not outlives_master:
            die_with(master)
        _set_name(name)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        faulthandler.register(signal.SIGQUIT, all_threads=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        log_setup.configure(log, instance=instance, processors=processors)
        run()
    except BaseException:  # noqa: BLE001  logged: the process ends
        _log.exception(f"the {name} failed")
    finally:
        os._exit(START_FAILED)


def _set_name(name: str) -> None:
    """Set the name that `ps -o comm` shows: at most 15 bytes (prctl(2), PR_SET_NAME)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.replace(" ", "-").encode())


class HelperProcess(ABC, Generic[P]):
    """The master's side of one helper process.

    `P` is all that the process is made from; it is replaced when this changes.  `pid` is None while it does not
    run.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.pid: int | None = None
        self.backoff = RestartBackoff()
        self.started = 0.0
        self._parameters: P | None = None
        self._kill_at: float | None = None
        """Time at which a process that has been sent a request to end is killed."""
        self._replacing = False
        self._stopping = False

    @abstractmethod
    def parameters(self, plan: Plan) -> P | None:
        """Return what the process is made from; None if `plan` needs none.

        The private key of `plan` must not be part of it.
        """

    @abstractmethod
    def main(self, parameters: P) -> Callable[[], NoReturn]:
        """Return the main function of a new process, called after the fork.  Raises OSError."""

    @property
    def inherited(self) -> tuple[socket.socket | None, ...]:
        """Return the listening sockets that the process keeps."""
        return ()

    def due(self) -> list[float]:
        """Return when `settle` has work, in seconds of the monotonic clock."""
        return [at for at in (self.backoff.at, self._kill_at) if at is not None]

    def settle(self, plan: Plan, fork: Callable[[Callable[[], NoReturn]], int], now: float) -> None:
        """Start, replace or keep the process, as `plan` requires.  `now` is seconds of the monotonic clock."""
        parameters = self.parameters(plan)
        # A frame that references the plan would keep its private key in the memory of the new process: subclasses
        # must not extend this method.
        del plan
        changed = self._parameters is not None and parameters != self._parameters
        if self.pid is not None:
            if changed and not self._replacing:
                self._replacing = True
                self.backoff.forgive()
                self.end(now)
            elif self._kill_at is not None and now >= self._kill_at:
                self._kill_at = None
                self.send_kill()
            elif not self._replacing:
                self.check(now)
            return
        if changed:
            self._parameters = None
            self.backoff.forgive()
            self.backoff.cancel()
            self.reset()
        if parameters is None or (self.backoff.at is not None and not self.backoff.is_due(now)):
            return
        self._parameters = parameters
        self.started = now
        self.backoff.cancel()
        try:
            self.pid = fork(self.main(parameters))
        except OSError as error:
            self.died(str(error), now)
        else:
            self.forked()

    def died(self, how: str, now: float) -> None:
        """Record that the process has ended, or could not be forked; it is started again when `backoff` is due."""
        self.pid = None
        self._kill_at = None
        if self._stopping:
            return
        if self._replacing:
            self._replacing = False
            return
        wait_s = self.backoff.after(now, now - self.started)
        _log.error(f"the {self.name} died; another takes its place", ended=how, in_seconds=wait_s)

    def stop(self) -> None:
        """Begin the shutdown: the process is not started again."""
        self._stopping = True
        self.backoff.cancel()

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        self.stop()
        if self.pid is not None:
            self.send_kill()
            os.waitpid(self.pid, 0)
            self.pid = None

    def send_kill(self) -> None:
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close_in_child(self, keep: tuple[socket.socket | None, ...]) -> None:
        """Close the master's sockets of this helper in another child, except those in `keep`."""

    # Extension points

    def forked(self) -> None:
        """Continue in the master after a fork."""

    def check(self, now: float) -> None:
        """Examine a process that is to be kept."""

    def end(self, now: float) -> None:
        """End a process that is to be replaced; `died` is called when it has ended."""
        del now
        self.send_kill()

    def reset(self) -> None:
        """Discard what the former process reported: its parameters are no longer valid."""


class ControlledProcess(HelperProcess[P]):
    """A helper process with a control socket: it reports to the master, and confirms the shutdown."""

    @abstractmethod
    def register(self, selector: selectors.BaseSelector) -> None:
        """Register the control socket of each process with `selector`; the data of its key is this object."""

    @abstractmethod
    def receive(self) -> bool:
        """Read the messages of the process; return whether there is a new certificate."""

    @abstractmethod
    def reloaded(self) -> None:
        """Report that the configuration was read again."""

    @property
    @abstractmethod
    def has_stopped(self) -> bool:
        """Return whether the master need not wait for the process any more, after `stop`."""


def wait_for_exit(pid: int, limit_s: float) -> bool:
    """Reap a child if it ends within `limit_s` seconds; return whether it has."""
    deadline = time.monotonic() + limit_s
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True
