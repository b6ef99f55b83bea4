"""The companion: the process that sees to certificates by ACME.  It serves nothing of the registry.

    ours: `keeper.py` and its room; theirs (the master's, `companion.py`): the sockets, and who may accept on them

One packet is one word of the control socket; descriptors travel with it:

    to the master     OPEN, CLOSE    have the sockets, or no longer
                      NEW            another certificate lies in the directory
                      LEFT           nothing is accepted here any more
    to the companion  REFUSE, RELAY  accept on these, and refuse or pass on what is no challenge; MORE of them
                      ALONE          no worker accepts any more
                      AGAIN          end a pause, unless the authority has asked for it
                      LEAVE          the workers accept again: take what waits, then no more
                      END            the server stops; LEFT is the answer

SIGTERM does nothing: service managers send it to every process at once, while connections that are passed on may
last as long as their workers do.  The master ends this process when its last worker has ended.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
import uvloop

from moorage import logs
from moorage.acme.wanted import Pace
from moorage.server.job import CUT_OFF, START_FAILED, die_with

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.acme.store import Store
    from moorage.acme.wanted import Wanted
    from moorage.config.model import Settings
    from moorage.server.relay import Relay

__all__ = [
    "AGAIN",
    "ALONE",
    "CLOSE",
    "END",
    "LEAVE",
    "LEFT",
    "MORE",
    "NEW",
    "OPEN",
    "PACKET_SOCKETS",
    "REFUSE",
    "RELAY",
]
__all__ += ["CompanionJob", "main"]

OPEN: Final = b"open"
CLOSE: Final = b"close"
NEW: Final = b"new"
LEFT: Final = b"left"
REFUSE: Final = b"refuse"
RELAY: Final = b"relay"
MORE: Final = b"more"
ALONE: Final = b"alone"
AGAIN: Final = b"again"
LEAVE: Final = b"leave"
END: Final = b"end"

PACKET_SOCKETS: Final = 200
"""The kernel lets 253 descriptors travel at a time."""

_MAKE_WAY_S: Final = 30.0
_log: Final = structlog.get_logger("moorage.acme")


@dataclass(frozen=True, slots=True)
class CompanionJob:
    """`serving`: workers serve what lies in the directory; `relay` is where they take connections from us."""

    settings: Settings
    wanted: Wanted
    control: socket.socket
    http: socket.socket | None
    relay: Relay
    serving: bool
    instance: str
    master: int
    pace: Pace = field(default_factory=Pace)


def main(job: CompanionJob) -> NoReturn:
    """Run until ended."""
    try:
        die_with(job.master)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        faulthandler.register(signal.SIGQUIT, all_threads=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        logs.configure(job.settings.log, instance=job.instance)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Companion(job).run())
    except BaseException:  # noqa: BLE001  all of them end in the log
        _log.exception("the process that keeps certificates failed")
    finally:
        os._exit(START_FAILED)


class _Companion:
    """Joins keeper, sockets and master."""

    def __init__(self, job: CompanionJob) -> None:
        from moorage.acme.authority import obtain, trust  # noqa: PLC0415  heavy: not before the fork
        from moorage.acme.front import Front  # noqa: PLC0415  as above
        from moorage.acme.keeper import Keeper  # noqa: PLC0415  as above
        from moorage.acme.store import Store  # noqa: PLC0415  as above

        trust()
        self._job = job
        self._store = Store(job.wanted.folder)
        self._front = Front(self._answer, job.relay.port, job.relay.note)
        self._relaying = False
        self._ended = asyncio.Event()
        self._opened, self._closed = asyncio.Event(), asyncio.Event()
        self._closed.set()
        self._keeper = Keeper(
            job.wanted, self._store, self, lambda: self._tell(NEW),
            serving=job.serving, pace=job.pace, obtain=obtain,
        )  # fmt: skip

    async def run(self) -> None:
        job = self._job
        job.control.setblocking(False)
        asyncio.get_running_loop().add_reader(job.control.fileno(), self._hear)
        server = None if job.http is None else await self._listen(self._store, job.http)
        keeping = asyncio.create_task(self._keeper.run(), name="keeper")
        ended = asyncio.create_task(self._ended.wait(), name="told to end")
        await asyncio.wait([keeping, ended], return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
        keeping.cancel()
        if server is not None:
            server.close()
        # What is passed on goes on until the master ends us.
        await asyncio.Event().wait()

    async def want(self, *, ours: bool) -> None:
        """`keeper.Doors`."""
        if ours and not self._opened.is_set():
            await self._ask(OPEN, self._opened)
        elif not ours and self._relaying and self._front.is_open:
            await self._ask(CLOSE, self._closed)

    async def _ask(self, word: bytes, done: asyncio.Event) -> None:
        self._tell(word)
        async with asyncio.timeout(_MAKE_WAY_S):
            await done.wait()

    async def _listen(self, store: Store, http: socket.socket) -> asyncio.Server:
        from moorage.acme.http01 import HttpChallenges  # noqa: PLC0415  as above

        challenges = HttpChallenges(store, self._job.wanted.hosts, self._job.settings.http.host)
        return await challenges.start(http)

    def _answer(self, host: str) -> Path | None:
        """By whatever name it was asked: only ours are names of files."""
        return self._store.alpn_file(host) if host in self._job.wanted.hosts else None

    def _tell(self, word: bytes) -> None:
        # The master reads whenever it has nothing else to do; it is never two hundred packets behind.
        self._job.control.send(word)

    def _hear(self) -> None:
        try:
            word, descriptors, _, _ = socket.recv_fds(self._job.control, 16, PACKET_SOCKETS)
        except BlockingIOError:
            return
        sockets = [socket.socket(fileno=one) for one in descriptors]
        if not word:
            os._exit(CUT_OFF)
        if word in {REFUSE, RELAY}:
            self._relaying = word == RELAY
            self._front.open(sockets, relaying=self._relaying)
            self._closed.clear()
            if word == REFUSE:
                self._opened.set()
        elif word == ALONE:
            self._opened.set()
        elif word == MORE:
            self._front.add(sockets)
        elif word == LEAVE:
            self._front.drain()
            self._opened.clear()
            self._closed.set()
            self._tell(LEFT)
        elif word == AGAIN:
            self._keeper.again()
        elif word == END:
            self._front.shut()
            self._keeper.end()
            self._ended.set()
            self._tell(LEFT)
