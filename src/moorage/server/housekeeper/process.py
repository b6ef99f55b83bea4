"""The housekeeper process: one event loop that runs the jobs.

Messages on the control socket, one per packet:

    to the master       CERTIFICATE_WRITTEN   the ACME job has written a certificate to its directory
                        STOPPED               all jobs but those that run last have ended, after STOP
    to the housekeeper  RELOADED              the configuration was read again; the jobs are the same
                        STOP                  the server begins to stop
    end of file                               the master has ended, or another housekeeper takes the place: the
                                              remaining jobs are cancelled, and the process exits

Secrets in its memory: the settings (`http.secret`, credentials of the storage, passwords of Redis and mail
servers), and with ACME the account key and the keys that it obtains.  It never holds the private key of
`http.tls`: the master forks it without (`Master._fork_helper`).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

import uvloop

from moorage.server.housekeeper.jobs import JobContext, keep_running
from moorage.server.processes.helper_process import run_helper

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from structlog.typing import Processor

    from moorage.config.sections.log import Log
    from moorage.server.housekeeper.jobs import Job

__all__ = ["CERTIFICATE_WRITTEN", "NAME", "RELOADED", "STOP", "STOPPED", "HousekeeperParameters", "main"]

NAME: Final = "housekeeper"
CERTIFICATE_WRITTEN: Final = b"certificate written"
STOPPED: Final = b"stopped"
RELOADED: Final = b"reloaded"
STOP: Final = b"stop"

_MESSAGE_BYTES: Final = 64
_CANCEL_LIMIT_S: Final = 2.0
"""Seconds for cancelled jobs to clean up; a store that hangs must not delay the shutdown."""


@dataclass(frozen=True, slots=True)
class HousekeeperParameters:
    """Everything the process is made from.  `processors` are those of the log."""

    jobs: tuple[Job, ...]
    log: Log
    instance: str
    processors: Sequence[Processor] = field(default=(), compare=False)

    @property
    def has_last_job(self) -> bool:
        return any(job.runs_last for job in self.jobs)


def main(parameters: HousekeeperParameters, control: socket.socket, master: int) -> NoReturn:
    """Run the jobs until the control socket is closed; `master` is the parent's process id."""

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Housekeeper(parameters, control).run())

    run_helper(
        NAME,
        run,
        log=parameters.log,
        instance=parameters.instance,
        master=master,
        processors=parameters.processors,
        # Lines that wait for their mail would be lost with the master.
        outlives_master=parameters.has_last_job,
    )


class _Housekeeper:
    """Runs the jobs, and connects them to the master."""

    def __init__(self, parameters: HousekeeperParameters, control: socket.socket) -> None:
        self._parameters = parameters
        self._control = control
        self._contexts: list[JobContext] = []
        self._stop_requested = asyncio.Event()
        self._disconnected = asyncio.Event()

    async def run(self) -> NoReturn:
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._receive)
        tasks = [(job, self._start(job)) for job in self._parameters.jobs]
        await self._stop_requested.wait()
        await _cancel([task for job, task in tasks if not job.runs_last], _CANCEL_LIMIT_S)
        self._report(STOPPED)
        await self._disconnected.wait()
        # Not for the others again: one of them may hang.
        await _cancel([task for job, task in tasks if job.runs_last], None)
        os._exit(0)

    def _start(self, job: Job) -> asyncio.Task[None]:
        context = JobContext(self._report)
        self._contexts.append(context)
        return asyncio.create_task(keep_running(job, context), name=job.name)

    def _report(self, message: bytes) -> None:
        # The master reads whenever it is idle, so the socket buffer (about two hundred packets) never fills.
        with suppress(OSError):
            self._control.send(message)

    def _receive(self) -> None:
        try:
            message = self._control.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == RELOADED:
            for context in self._contexts:
                context.on_reload()
            return
        if not message:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._disconnected.set()
        self._stop_requested.set()


async def _cancel(tasks: Sequence[asyncio.Task[None]], limit_s: float | None) -> None:
    """Cancel `tasks` and wait until they have ended, at most `limit_s` seconds."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=limit_s)
