"""The master's side of ACME: starts the companion process (`process.py`) and restarts it when it dies.

Before the first certificate the workers answer challenges only, and refuse other handshakes.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from moorage import extras
from moorage.acme.order_spec import HTTP_01, LETS_ENCRYPT, TLS_ALPN_01, Pace, Wanted
from moorage.server.housekeeper import process
from moorage.server.housekeeper.process import AGAIN, END, ENDED, NEW, CompanionJob
from moorage.server.listeners import bind
from moorage.server.processes.restart_backoff import Retry
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.model import Settings
    from moorage.server.listeners import Sockets
    from moorage.server.processes.worker_config import Plan

__all__ = ["Companion", "engage", "require_library", "wanted"]

_log: Final = structlog.get_logger("moorage.server")


def wanted(settings: Settings, *, http: bool, unix: bool) -> Wanted:
    """Return the certificate order that `http.tls.letsencrypt` configures.

    HTTP-01 needs a listener of its own, TLS-ALPN-01 a socket of the registry that the authority can reach.
    """
    acme = settings.http.tls.letsencrypt
    kinds = (*((HTTP_01,) if http else ()), *(() if unix else (TLS_ALPN_01,)))
    return Wanted(
        hosts=acme.names,
        folder=str(Path(acme.cachefile).absolute()),
        kinds=kinds,
        email=acme.email,
        directory=acme.directoryurl or LETS_ENCRYPT,
    )


def require_library() -> None:
    """Raise `StartupError` if the ACME client libraries are not installed."""
    extras.require("letsencrypt", "http.tls.letsencrypt", "acme", "josepy")


def engage(plan: Plan, sockets: Sockets, pace: Pace) -> Companion | None:
    """Return the companion that the settings need, not started yet; None without ACME.  Raises `StartupError`."""
    acme = plan.settings.http.tls.letsencrypt
    if not acme.cachefile:
        return None
    require_library()
    asked = wanted(plan.settings, http=bool(acme.http01), unix=sockets.unix)
    if not asked.kinds:
        raise StartupError(
            "http.tls.letsencrypt on a Unix socket: no authority can reach it; set http.tls.letsencrypt.http01"
        )
    from moorage.acme import store  # noqa: PLC0415  most servers do without

    try:
        store.prepare(asked.folder)
    except OSError as error:
        raise StartupError(
            f"http.tls.letsencrypt.cachefile: cannot use {asked.folder}: {error.strerror}"
        ) from error
    http = bind("tcp", acme.http01, 1) if acme.http01 else None
    return Companion(None if http is None else http.of(0), pace, unix=sockets.unix)


class Companion:
    """One companion process at a time, restarted when it dies.  `http` is the listening socket for HTTP-01."""

    def __init__(self, http: socket.socket | None, pace: Pace, *, unix: bool) -> None:
        self.control: socket.socket | None = None
        self.pid: int | None = None
        self.retry = Retry()
        self.http = http
        self._pace, self._unix = pace, unix
        self._started = 0.0
        self._replaced = False
        self._ending = False
        self._has_ended = False
        self._selector: selectors.BaseSelector | None = None

    # The process

    def start(
        self, plan: Plan, selector: selectors.BaseSelector, fork: Callable[[Callable[[], NoReturn]], int]
    ) -> None:
        """Fork the process and register its control socket with `selector`."""
        if plan.awaiting:
            acme = plan.settings.http.tls.letsencrypt
            _log.info("waiting for a certificate; nothing is served before", hosts=", ".join(acme.names))
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self.died(str(error))
            return
        ours.setblocking(False)
        job = CompanionJob(
            settings=plan.settings,
            wanted=wanted(plan.settings, http=self.http is not None, unix=self._unix),
            control=theirs,
            http=self.http,
            serving=not plan.awaiting,
            instance=plan.instance,
            master=os.getpid(),
            pace=self._pace,
        )

        # The companion does not need the private key of the plan.
        del plan

        def become() -> NoReturn:
            ours.close()
            process.main(job)

        self.pid = fork(become)
        theirs.close()
        self.control, self._started = ours, time.monotonic()
        self.retry.cancel()
        self._selector = selector
        selector.register(ours, selectors.EVENT_READ, self)

    def died(self, how: str) -> None:
        """Clean up after the process and schedule a restart, unless the server stops."""
        if self.control is not None:
            if self._selector is not None:
                self._selector.unregister(self.control)
            self.control.close()
        self.control, self.pid = None, None
        if self._ending:
            return
        now = time.monotonic()
        wait_s = self.retry.after(now, now - self._started)
        if self._replaced:
            self._replaced = False
            return
        _log.error("the certificate process died; another takes its place", ended=how, in_seconds=wait_s)

    def again(self) -> None:
        """Make it retry now instead of after its pause."""
        self._send(AGAIN)

    def replace(self) -> None:
        """Kill the process; it is restarted with new settings."""
        self._replaced = self.pid is not None
        self.retry.forgive()
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the process for good and reap it."""
        self._ending = True
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None

    def end(self) -> None:
        """Shut down: no more orders, and pending challenges are withdrawn."""
        self._ending = True
        self.retry.cancel()
        self._send(END)
        if self.http is not None:
            self.http.close()

    def forget(self, keep: tuple[socket.socket | None, ...]) -> None:
        """Close inherited sockets in a child of the master, except those in `keep`."""
        if self.control is not None:
            self.control.close()
        if self.http is not None and self.http not in keep:
            self.http.close()

    # Messages

    @property
    def ended(self) -> bool:
        """Return whether pending challenges are withdrawn, after `end`."""
        return self.pid is None or self._has_ended

    def hear(self) -> bool:
        """Read its messages; return whether there is a new certificate."""
        assert self.control is not None
        new = False
        while True:
            try:
                word = self.control.recv(16)
            except OSError:
                return new
            if not word:
                return new
            if word == NEW:
                new = True
            elif word == ENDED:
                self._has_ended = self._ending

    def _send(self, word: bytes) -> None:
        if self.control is not None:
            # A dead process is reaped soon.
            with suppress(OSError):
                self.control.send(word)
