"""The companion: the process that obtains and renews certificates by ACME.  It serves no requests of the registry.

Messages on the control socket, one per packet:

    to the master     NEW            there is a new certificate in the directory
                      ENDED          pending challenges are withdrawn, after END
    to the companion  AGAIN          end a pause, unless the authority has requested it (Retry-After)
                      END            the server stops

TLS-ALPN-01 is answered by the workers, which read the directory; HTTP-01 here.

SIGTERM is ignored: service managers send it to every process of the group.  The master ends this process.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
import uvloop

from moorage.acme.order_spec import Pace
from moorage.logs import log_setup
from moorage.server.processes.protocol import CUT_OFF, START_FAILED, die_with

if TYPE_CHECKING:
    import socket

    from moorage.acme.order_spec import Wanted
    from moorage.acme.store import Store
    from moorage.config.model import Settings

__all__ = ["AGAIN", "END", "ENDED", "NEW", "CompanionJob", "main"]

NEW: Final = b"new"
ENDED: Final = b"ended"
AGAIN: Final = b"again"
END: Final = b"end"

_log: Final = structlog.get_logger("moorage.acme")


@dataclass(frozen=True, slots=True)
class CompanionJob:
    """Settings and sockets of the companion.  `serving`: workers serve a certificate of the directory already."""

    settings: Settings
    wanted: Wanted
    control: socket.socket
    http: socket.socket | None
    serving: bool
    instance: str
    master: int
    pace: Pace = field(default_factory=Pace)


def main(job: CompanionJob) -> NoReturn:
    """Run until the master ends the process."""
    try:
        die_with(job.master)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        faulthandler.register(signal.SIGQUIT, all_threads=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        log_setup.configure(job.settings.log, instance=job.instance)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Companion(job).run())
    except BaseException:  # noqa: BLE001  logged: the process ends
        _log.exception("the certificate process failed")
    finally:
        os._exit(START_FAILED)


class _Companion:
    """Connects the certificate keeper to the master."""

    def __init__(self, job: CompanionJob) -> None:
        from moorage.acme.authority import obtain, trust  # noqa: PLC0415  heavy: not before the fork
        from moorage.acme.renewal import Keeper  # noqa: PLC0415  as above
        from moorage.acme.store import Store  # noqa: PLC0415  as above

        trust()
        self._job = job
        self._store = Store(job.wanted.folder)
        self._ended = asyncio.Event()
        self._keeper = Keeper(
            job.wanted, self._store, lambda: self._report(NEW), serving=job.serving, pace=job.pace, obtain=obtain
        )

    async def run(self) -> None:
        job = self._job
        job.control.setblocking(False)
        asyncio.get_running_loop().add_reader(job.control.fileno(), self._hear)
        server = None if job.http is None else await self._listen(self._store, job.http)
        keeping = asyncio.create_task(self._keeper.run(), name="keeper")
        ended = asyncio.create_task(self._ended.wait(), name="end requested")
        await asyncio.wait([keeping, ended], return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
        keeping.cancel()
        if server is not None:
            server.close()
        # The master ends this process with its last worker.
        await asyncio.Event().wait()

    async def _listen(self, store: Store, http: socket.socket) -> asyncio.Server:
        from moorage.acme.http01 import HttpChallenges  # noqa: PLC0415  as above

        challenges = HttpChallenges(store, self._job.wanted.hosts, self._job.settings.http.host)
        return await challenges.start(http)

    def _report(self, word: bytes) -> None:
        # The master reads whenever it is idle, so the socket buffer (about two hundred packets) never fills.
        self._job.control.send(word)

    def _hear(self) -> None:
        try:
            word = self._job.control.recv(16)
        except BlockingIOError:
            return
        if not word:
            os._exit(CUT_OFF)
        if word == AGAIN:
            self._keeper.again()
        elif word == END:
            self._keeper.end()
            self._ended.set()
            self._report(ENDED)
