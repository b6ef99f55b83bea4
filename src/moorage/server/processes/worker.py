"""Worker: one process that serves requests on a socket that the master has bound.

    built ─► ready (reported to the master) ─► draining ─► ended
                                                  ▲
                 SIGTERM: for `http.draintimeout` at most
                 RETIRE (a newer worker has taken its place): as long as its connections and requests last

Master and worker communicate by the control socket (messages: `protocol.py`); its end of file means that the
master is dead, and ends the worker.  CERTIFICATE comes with another certificate, for new connections.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import gc
import os
import pickle
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
import uvloop

from moorage.http.middleware import Traffic
from moorage.logs import log_setup
from moorage.logs.lines import write_line
from moorage.server.allocator import keep_buffers
from moorage.server.application import WorkerContext
from moorage.server.http1 import Server
from moorage.server.processes.protocol import (
    CERTIFICATE,
    CERTIFICATE_FAILED,
    CERTIFICATE_LOADED,
    CUT_OFF,
    DRAINING,
    HEARTBEAT,
    HEARTBEAT_S,
    NO_NEW_CONNECTIONS,
    READY,
    RETIRE,
    START_FAILED,
    die_with,
)
from moorage.server.telemetry import Observing
from moorage.server.tls.memfd import read_sealed
from moorage.server.tls.provider import Certificates
from moorage.system_errors import remedy_of

if TYPE_CHECKING:
    from moorage.http.middleware import ASGIApp
    from moorage.server.processes.protocol import WorkerStartup

__all__ = ["main"]

_CLOSE_LIMIT_S: Final = 5.0
_NO_NEW_CONNECTIONS_LIMIT_S: Final = 1.0
"""Seconds that an ending worker waits for NO_NEW_CONNECTIONS, which a stopped master does not send."""

_DESCRIPTORS_AT_ONCE: Final = 16
_log: Final = structlog.get_logger("moorage.server")


def main(job: WorkerStartup) -> NoReturn:
    """Run until SIGTERM or RETIRE.  Never returns: running threads must not delay the end of the process."""
    try:
        die_with(job.master)
        keep_buffers()
        log_setup.configure(job.settings.log, instance=job.instance, worker=job.number, processors=job.processors)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Worker(job).run())
    except BaseException:  # noqa: BLE001  logged: the process ends
        _log.exception("worker failed")
    finally:
        _leave(START_FAILED)


def _leave(status: int) -> NoReturn:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


class _Worker:
    def __init__(self, job: WorkerStartup) -> None:
        self._job = job
        self._draining = asyncio.Event()
        self._sigterm = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        self._ends_at: float | None = None
        self._traffic = Traffic(None if job.in_flight is None else job.in_flight.memory)
        self._asgi: ASGIApp | None = None
        self._server: Server | None = None
        self._certificates: Certificates | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._unreported = b""
        self._no_new_connections = asyncio.Event()

    async def run(self) -> NoReturn:
        job, loop = self._job, asyncio.get_running_loop()
        self._listen_for_signals()
        observing = Observing(job)
        traffic = self._traffic
        storage = None if job.storage is None else job.storage.current
        app = job.build(WorkerContext(traffic, observing.observer, observing.watches(), storage))
        self._asgi = observing.around(app.asgi)

        await app.start()
        if job.options.https:
            self._certificates = Certificates(job.options.tls, job.options.challenges)
        self._server = server = Server(self._asgi, job.options.http1, self._certificates)
        server.listen(job.listening)
        job.listening.close()
        observing.start(app.health, traffic, app.readings, self._certificates)
        job.control.setblocking(False)
        loop.add_reader(job.control.fileno(), self._receive)
        # What is loaded by now stays; leaving it out makes each collection cheap.
        gc.collect()
        gc.freeze()
        job.control.send(READY)
        self._heartbeat = asyncio.create_task(self._beat(), name="heartbeat")

        await self._draining.wait()
        traffic.draining = True
        traffic.stopping = self._ends_at is not None
        if self._ends_at is None:
            observing.retire()
            server.stop_accepting()
            server.draining = True
            await self._linger(server)
        else:
            server.draining = True
            await self._wait_no_new_connections()
        status = await self._drain(server, traffic)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_LIMIT_S):
                await app.close()
        await observing.close()
        # Here, not after the event loop: its end cancels running requests, and clients would get a 500 where a
        # broken connection makes them try again.
        _leave(status)

    def _listen_for_signals(self) -> None:
        """SIGTERM drains; SIGQUIT prints the stacks of all threads and tasks, also of a blocked event loop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        loop.add_signal_handler(signal.SIGQUIT, _dump_tasks)
        faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

    async def _beat(self) -> None:
        """Report to the master that the event loop runs, until the process ends."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._report(HEARTBEAT)

    def _report(self, message: bytes) -> None:
        # The buffer is full when the master is stopped: all messages but heartbeats are sent with a later one.
        # `_receive` notices the death of the master.
        messages = self._unreported + (b"" if self._unreported and message == HEARTBEAT else message)
        try:
            self._unreported = messages[self._job.control.send(messages) :]
        except (BlockingIOError, BrokenPipeError):
            self._unreported = messages.replace(HEARTBEAT, b"")

    def _receive(self) -> None:
        """Handle messages of the master, or its end."""
        try:
            messages, descriptors, _, _ = socket.recv_fds(self._job.control, 16, _DESCRIPTORS_AT_ONCE)
        except BlockingIOError:
            return
        received = iter(descriptors)
        if not messages:
            os._exit(CUT_OFF)
        for message in (bytes([letter]) for letter in messages):
            if message == RETIRE:
                self._draining.set()
            elif message == NO_NEW_CONNECTIONS:
                self._no_new_connections.set()
            elif message == CERTIFICATE:
                self._exchange(next(received, None))
        for descriptor in received:
            os.close(descriptor)

    def _exchange(self, descriptor: int | None) -> None:
        """Serve new connections with another certificate, and report to the master whether that was possible.

        `descriptor` None: the kernel could not install it, since this process has too many.
        """
        try:
            if descriptor is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._replace_certificate(descriptor)
        except Exception as error:  # noqa: BLE001  every failure is reported to the master
            _log.error(
                "cannot use the new certificate; new connections get the old one until another try succeeds",
                cause=str(error), remedy=_remedy(error),
            )  # fmt: skip
            self._report(CERTIFICATE_FAILED)
        else:
            self._report(CERTIFICATE_LOADED)

    def _replace_certificate(self, descriptor: int) -> None:
        try:
            data = read_sealed(descriptor)
        finally:
            os.close(descriptor)
        if self._certificates is not None:
            # From the master, by a socket that no other process has.
            self._certificates.replace(pickle.loads(data))  # noqa: S301

    def _terminate(self) -> None:
        """Start to drain.  A second SIGTERM changes nothing: service managers send one to every process."""
        if self._ends_at is None:
            loop = asyncio.get_running_loop()
            self._ends_at = loop.time() + self._job.settings.http.draintimeout
            self._sigterm.set()
            self._report(DRAINING)
            if self._limit is not None:
                self._limit.reschedule(self._ends_at)
        self._draining.set()

    async def _linger(self, server: Server) -> None:
        """Serve the present connections while another worker accepts new ones.

        Closing an idle connection may race with a request on its way, and clients do not repeat a POST.  Each
        response closes its connection, and one without requests is kept for the idle timeout.
        """
        empty = asyncio.create_task(server.wait_until_empty())
        terminated = asyncio.create_task(self._sigterm.wait())
        limit = self._job.settings.http.idletimeout
        await asyncio.wait([empty, terminated], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        empty.cancel()
        terminated.cancel()

    async def _wait_no_new_connections(self) -> None:
        """Accept until no more connections arrive: those in the queue would wait for the next worker."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_NO_NEW_CONNECTIONS_LIMIT_S):
                await self._no_new_connections.wait()

    async def _drain(self, server: Server, traffic: Traffic) -> int:
        server.stop()
        try:
            async with asyncio.timeout_at(self._ends_at) as self._limit:
                await server.wait_stopped()
        except TimeoutError:
            if self._job.settings.http.draintimeout == 0:
                return 0
            _log.warning("requests were cut off: http.draintimeout is over", requests=traffic.in_flight)
            return CUT_OFF
        return 0


def _remedy(error: Exception) -> str:
    """Return what an operator can do about a certificate that could not be used."""
    return (
        remedy_of(error)
        or "the master has checked the same certificate; reload (SIGHUP) starts new workers with it"
    )


def _dump_tasks() -> None:
    """Print the stacks of all tasks, outermost frame first; `Task.print_stack` prints the outermost frame only."""
    lines = []
    for task in asyncio.all_tasks():
        lines.append(f"Task {task.get_name()}:")
        at: object = task.get_coro()
        while (frame := getattr(at, "cr_frame", None)) is not None:
            lines.append(
                f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_qualname}'
            )
            at = getattr(at, "cr_await", None)
    write_line(2, "".join(f"{line}\n" for line in lines).encode())
