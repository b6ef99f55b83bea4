"""Sees to it that there is a certificate in the directory, and a newer one in time.  Runs until it is ended.

    what lies there ──good──► wait until a third of its life is left
         ▲          └─not──► its turn ─► still not? ─► order ─► put there, and say so
         │                                               └─failed─► wait longer each time, and say why
         └──────────────────────────────────────────────────────────────┘

While it waits it looks at the directory every few seconds: a certificate of another node is as good as our own.
TLS-ALPN-01 is answered by the workers of every node, which read the directory (a load balancer sends the authority
anywhere).

The rule not to miss: whatever fails, the certificate that is there goes on being served.
Above: `server/housekeeper/process.py`, which runs this in a process of its own.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from moorage.acme import pem, schedule
from moorage.acme.challenge_answers import Answering
from moorage.acme.order_spec import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.acme.authority import Answers, Key
    from moorage.acme.order_spec import Pace, Wanted
    from moorage.acme.pem import Issued
    from moorage.acme.store import Store

    Obtain = Callable[[Wanted, Key, str, Answers, Pace], bytes]

__all__ = ["Keeper"]

_log: Final = structlog.get_logger("moorage.acme")


class Keeper:
    """`announce` is called when another certificate lies there than before, whoever has put it there.

    `serving`: the one that lies there already is being served.
    """

    def __init__(
        self,
        wanted: Wanted,
        store: Store,
        announce: Callable[[], None],
        *,
        serving: bool,
        pace: Pace,
        obtain: Obtain,
    ) -> None:
        self._wanted, self._store, self._announce = wanted, store, announce
        self._serving, self._pace, self._obtain = serving, pace, obtain
        self._back_off = schedule.RenewalBackoff(pace)
        self._jitter = random.random()  # noqa: S311  nobody gains by guessing it
        self._kind = 0
        self._last: bytes | None = None
        self._pause_until = self._left_alone_until = 0.0
        self._others_since: float | None = None
        self._order: Answering | None = None

    async def run(self) -> None:
        """Keep a certificate, until cancelled."""
        # A directory that cannot be read is reported in the first step.
        with suppress(OSError):
            if self._serving:
                self._last = await asyncio.to_thread(self._store.certificate, self._wanted.hosts[0])
        while True:
            pause_s = await self._step()
            await asyncio.sleep(pause_s)

    def again(self) -> None:
        """Somebody has mended something: try now, unless the authority wants to be left alone."""
        self._pause_until = self._left_alone_until

    def end(self) -> None:
        """The process is about to end: take back the answers of an order that is under way."""
        if self._order is not None:
            self._order.end()

    # Certificates

    async def _step(self) -> float:
        """Do what is due; seconds until something may be due again."""
        try:
            found = await self._look()
            why, left_s = self._judge(found)
            if not why:
                self._back_off.succeeded()
                self._others_since = None
                return min(left_s, self._pace.rest_s)
            pause_s = self._pause_until - _now()
            if pause_s <= 0:
                await self._take_turn(why)
        except OSError as error:
            self._failed(f"cannot use {self._store.folder}: {error.strerror or error}")
            return self._pause_until - _now()
        return min(max(self._pause_until - _now(), 0.0), self._pace.poll_s)

    async def _look(self) -> Issued | None:
        """What lies there, which is announced if it is new."""
        data = await asyncio.to_thread(self._store.certificate, self._wanted.hosts[0])
        if data is None:
            return None
        found = pem.read(data)
        if data != self._last and found is not None:
            self._last = data
            self._announce()
        return found

    def _judge(self, found: Issued | None) -> tuple[str, float]:
        """Why to ask for another one, "" for no reason; then the seconds until there is one."""
        if found is None:
            return "there is none", 0.0
        if missing := [host for host in self._wanted.hosts if host not in found.hosts]:
            return f"there is one, but not for {', '.join(missing)}", 0.0
        left_s = (schedule.renewal(found.begin, found.end, self._jitter) - datetime.now(UTC)).total_seconds()
        return ("", left_s) if left_s > 0 else (f"there is one that ends at {_time(found.end)}", 0.0)

    async def _take_turn(self, why: str) -> None:
        """Order, unless another node is about to; raises OSError."""
        with self._store.turn() as ours:
            if not ours and not self._impatient():
                self._pause_until = _now() + self._pace.poll_s
                return
            self._others_since = None
            # Another node may have been at it until now.
            if self._judge(await self._look())[0]:
                await self._ask(why)

    def _impatient(self) -> bool:
        if self._others_since is None:
            self._others_since = _now()
            _log.info("another node is talking to the authority", directory=str(self._store.folder))
        if _now() - self._others_since < self._pace.turn_limit_s:
            return False
        _log.warning("another node has held the lock for too long; going ahead", seconds=self._pace.turn_limit_s)
        return True

    async def _ask(self, why: str) -> None:
        kind = self._wanted.kinds[self._kind % len(self._wanted.kinds)]
        told = {"hosts": ", ".join(self._wanted.hosts), "authority": self._wanted.directory, "challenge": kind}
        _log.info("asking for a certificate", reason=why, **told)
        self._order = Answering(self._store, self._pace.spread_s)
        limit_s = 2 * self._pace.order_limit_s
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.to_thread(self._fetch, kind, self._order)
        except Failed as error:
            # Another kind may do better, if there is one.
            self._kind += error.challenge
            self._failed(str(error), error.wait_s)
        except TimeoutError:
            self._failed(f"{self._wanted.directory} keeps us waiting for more than {limit_s:g} s")
        except OSError:
            raise
        except Exception:  # noqa: BLE001  a mistake of ours must not make us ask again and again
            _log.exception("asking for a certificate failed")
            self._failed("see above")
        else:
            await self._done()
        finally:
            self._order = None

    def _fetch(self, kind: str, answers: Answering) -> None:
        """In a thread.  Raises `Failed` and OSError."""
        store, wanted = self._store, self._wanted
        store.tidy(wanted.hosts)
        account = pem.account_key(store.account() or b"")
        if account is None:
            account = pem.new_key()
            store.put_account(pem.key_pem(account))
            _log.info("a new account key", directory=str(store.folder))
        store.put_certificate(wanted.hosts, self._obtain(wanted, account, kind, answers, self._pace))

    async def _done(self) -> None:
        found = await self._look()
        why, _ = self._judge(found)
        if why or found is None:
            # Or it would be asked for again at once, for ever.
            self._failed(f"the new certificate is of no use: {why}; is the clock right?")
            return
        self._back_off.succeeded()
        _log.info(
            "a new certificate", hosts=", ".join(self._wanted.hosts), until=_time(found.end), issuer=found.issuer
        )

    def _failed(self, cause: str, wait_s: float = 0.0) -> None:
        pause_s = self._back_off.failed(wait_s, random.random())  # noqa: S311  as above
        self._pause_until = _now() + pause_s
        self._left_alone_until = _now() + wait_s
        _log.error("no new certificate", cause=cause, retry_in_seconds=round(pause_s))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
