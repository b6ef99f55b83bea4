"""The master's side of certificates by ACME: starts the companion (`keeping.py`), has the workers make way for it.

    companion wants the sockets ─► they travel there; PAUSE to every worker ─► all PAUSED ─► ALONE
    companion is done           ─► RESUME to every worker ─► all RESUMED ─► LEAVE ─► it takes what waits ─► LEFT

Before there is a certificate there are no workers: the companion has the sockets from the start, and refuses
whoever asks for anything but a challenge.

At no time does nobody accept, also not on the socket of a worker that hangs.

The rule not to miss: whenever workers have paused, the companion drains the sockets after they have resumed, also
a second one whose predecessor died in between.  `acme/front.py` says why.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import structlog

from moorage.acme.wanted import HTTP_01, LETS_ENCRYPT, TLS_ALPN_01, Pace, Wanted
from moorage.extras import remedy
from moorage.server import keeping
from moorage.server.cannot import Cannot
from moorage.server.job import PAUSE, RESUME
from moorage.server.keeping import (
    AGAIN,
    ALONE,
    CLOSE,
    END,
    LEAVE,
    LEFT,
    MORE,
    NEW,
    OPEN,
    PACKET_SOCKETS,
    REFUSE,
    RELAY,
    CompanionJob,
)
from moorage.server.listen import bind
from moorage.server.relay import Relay
from moorage.server.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from moorage.config.model import Settings
    from moorage.server.listen import Sockets
    from moorage.server.plan import Plan

__all__ = ["Companion", "engage", "require_library", "wanted"]

_log: Final = structlog.get_logger("moorage.server")


class Pausing(Protocol):
    """What this needs of the master's record of a worker.

    `told`: it has been asked to pause, or is paused because of that; `paused`: it has said so.
    """

    control: socket.socket
    ready: bool
    retiring: bool
    told: bool
    paused: bool


def wanted(settings: Settings, *, http: bool, unix: bool) -> Wanted:
    """What `http.tls.letsencrypt` asks for.

    HTTP-01 takes a listener of its own, TLS-ALPN-01 a socket of the registry that the authority can reach.
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
    """Raises `Cannot` where what talks to an authority is not installed."""
    missing = [name for name in ("acme", "josepy") if find_spec(name) is None]
    if missing:
        raise Cannot(
            "http.tls.letsencrypt needs the extra moorage[letsencrypt], which is not installed "
            f"(no {' and '.join(missing)}); {remedy('letsencrypt')}"
        )


def engage(plan: Plan, sockets: Sockets, pace: Pace) -> Companion | None:
    """The companion that the settings ask for, not started yet.  Raises `Cannot`."""
    acme = plan.settings.http.tls.letsencrypt
    if not acme.cachefile:
        return None
    require_library()
    asked = wanted(plan.settings, http=bool(acme.http01), unix=sockets.unix)
    if not asked.kinds:
        raise Cannot(
            "http.tls.letsencrypt on a Unix socket: no authority can reach it; set http.tls.letsencrypt.http01"
        )
    from moorage.acme import store  # noqa: PLC0415  most servers do without

    try:
        store.prepare(asked.folder)
    except OSError as error:
        raise Cannot(f"http.tls.letsencrypt.cachefile: cannot use {asked.folder}: {error.strerror}") from error
    http = bind("tcp", acme.http01, 1) if acme.http01 else None
    try:
        relay = Relay()
    except OSError as error:
        raise Cannot(f"http.tls.letsencrypt: cannot listen on 127.0.0.1: {error.strerror}") from error
    return Companion(sockets, None if http is None else http.of(0), relay, pace)


class Companion:
    """`http` is where HTTP-01 is answered.  One process at a time, started again when it dies."""

    def __init__(self, sockets: Sockets, http: socket.socket | None, relay: Relay, pace: Pace) -> None:
        self.control: socket.socket | None = None
        self.pid: int | None = None
        self.retry = Retry()
        self.http, self.relay = http, relay
        self._sockets, self._pace = sockets, pace
        self._started = 0.0
        self._wanted = False
        self._given: tuple[socket.socket, ...] = ()
        self._relaying = False
        self._leaving = False
        self._alone = False
        self._replaced = False
        self._ending = False
        self._has_ended = False
        self._selector: selectors.BaseSelector | None = None

    # The process

    def start(
        self, plan: Plan, selector: selectors.BaseSelector, fork: Callable[[Callable[[], NoReturn]], int]
    ) -> None:
        """Fork it; `selector` tells when it speaks."""
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
            wanted=wanted(plan.settings, http=self.http is not None, unix=self._sockets.unix),
            control=theirs,
            http=self.http,
            relay=self.relay,
            serving=not plan.awaiting,
            instance=plan.instance,
            master=os.getpid(),
            pace=self._pace,
        )

        awaiting = plan.awaiting
        # The companion has no use for the private key that lies in its memory.
        del plan

        def become() -> NoReturn:
            ours.close()
            self.relay.socket.close()
            keeping.main(job)

        self.pid = fork(become)
        theirs.close()
        self.control, self._started = ours, time.monotonic()
        self.retry.cancel()
        self._selector = selector
        selector.register(ours, selectors.EVENT_READ, self)
        if awaiting:
            self._give(REFUSE)

    def died(self, how: str) -> None:
        """It is to be started again when `retry` says so, unless the server stops."""
        if self.control is not None:
            if self._selector is not None:
                self._selector.unregister(self.control)
            self.control.close()
        self.control, self.pid = None, None
        self.relay.forget()
        # Its successor takes what has waited since, and then asks for nothing.
        self._wanted = self._relaying and bool(self._given)
        self._given, self._leaving, self._alone = (), False, False
        if self._ending:
            return
        now = time.monotonic()
        wait_s = self.retry.after(now, now - self._started)
        if self._replaced:
            self._replaced = False
            return
        _log.error(
            "the process that keeps certificates died; another takes its place", ended=how, in_seconds=wait_s
        )

    def again(self) -> None:
        """Have it try now rather than after its pause."""
        self._send(AGAIN)

    def replace(self) -> None:
        """End it at once; another is to be started, with other settings."""
        self._replaced = self.pid is not None
        self.retry.forgive()
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Everything ends."""
        self._ending = True
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None
        self.relay.socket.close()

    def end(self) -> None:
        """The server stops: no more connections, no more orders; what is passed on goes on."""
        self._ending = True
        self.retry.cancel()
        self._send(END)
        if self.http is not None:
            self.http.close()

    def forget(self, keep: tuple[socket.socket | None, ...]) -> None:
        """In a child of the master: what is not its own."""
        if self.control is not None:
            self.control.close()
        if self.http is not None and self.http not in keep:
            self.http.close()

    # The sockets

    @property
    def ended(self) -> bool:
        """Whether it has put its things away, after `end`."""
        return self.pid is None or self._has_ended

    @property
    def holds(self) -> bool:
        """Whether it accepts connections in the workers' place."""
        return bool(self._given)

    def hear(self) -> bool:
        """Read what it says; whether there is another certificate."""
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
            elif word in {OPEN, CLOSE}:
                self._wanted = word == OPEN
            elif word == LEFT:
                self._given, self._leaving, self._alone = (), False, False
                self._has_ended = self._ending

    def settle(self, workers: Iterable[Pausing]) -> None:
        """What is due next so that those accept who should, among workers that serve."""
        live = [each for each in workers if each.ready and not each.retiring]
        if self._wanted and self.control is not None:
            if not self._leaving and self._given != self._listening():
                self._give(RELAY)
            for each in live:
                if not each.told:
                    each.told = _tell(each, PAUSE)
            if self._given and not self._alone and all(each.paused for each in live):
                self._alone = True
                self._send(ALONE)
            return
        for each in live:
            if each.told:
                each.told = not _tell(each, RESUME)
        if not any(each.paused for each in live):
            self.leave()

    def leave(self) -> None:
        """Have it leave the sockets to the workers, who accept already; `holds` says when it has."""
        if self._given and not self._leaving:
            self._leaving = True
            self._send(LEAVE)

    def _listening(self) -> tuple[socket.socket, ...]:
        return tuple(one for one in self._sockets.sockets if one is not None)

    def _give(self, word: bytes) -> None:
        self._given, self._relaying = self._listening(), word == RELAY
        for start in range(0, len(self._given), PACKET_SOCKETS):
            some = [one.fileno() for one in self._given[start : start + PACKET_SOCKETS]]
            self._send(word if start == 0 else MORE, some)

    def _send(self, word: bytes, descriptors: Iterable[int] = ()) -> None:
        if self.control is not None:
            # One that is dead is buried soon.
            with suppress(OSError):
                socket.send_fds(self.control, [word], list(descriptors))


def _tell(worker: Pausing, word: bytes) -> bool:
    """Whether it could be told; one that is dead is buried soon."""
    try:
        worker.control.send(word)
    except OSError:
        return False
    return True
