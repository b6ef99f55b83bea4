"""Renewal: keeps a valid certificate in the directory, until cancelled.

    read the directory ──valid──► wait until a third of the lifetime is left
         ▲             └─not───► lock ─► still not? ─► order ─► write, and report
         │                                               └─failed─► log the cause, wait longer each time
         └──────────────────────────────────────────────────────────────┘

While it waits it reads the directory every few seconds: a certificate that another node obtained is used as well.
TLS-ALPN-01 is answered by the workers of every node, which read the directory (a load balancer sends the authority
to any of them).

Invariant: after any failure the present certificate stays in service.
Above: `server/housekeeper/acme_job.py`.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from moorage.acme import pem, schedule
from moorage.acme.challenge_answers import ChallengeAnswers
from moorage.acme.order_spec import OrderFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.acme.authority import Answers, Key
    from moorage.acme.order_spec import CertificateOrder, Timings
    from moorage.acme.pem import IssuedCertificate
    from moorage.acme.store import CertificateStore

    Obtain = Callable[[CertificateOrder, Key, str, Answers, Timings], bytes]

__all__ = ["CertificateRenewal"]

_log: Final = structlog.get_logger("moorage.acme")


class CertificateRenewal:
    """`announce` is called when the directory has another certificate, of this node or of another.

    `serving`: the certificate in the directory is being served already.
    """

    def __init__(
        self,
        spec: CertificateOrder,
        store: CertificateStore,
        announce: Callable[[], None],
        *,
        serving: bool,
        timings: Timings,
        obtain: Obtain,
    ) -> None:
        self._spec = spec
        self._store = store
        self._announce = announce
        self._serving = serving
        self._timings = timings
        self._obtain = obtain
        self._back_off = schedule.RenewalBackoff(timings)
        self._jitter = random.random()  # noqa: S311  not a secret
        self._kind = 0
        self._last: bytes | None = None
        self._pause_until = 0.0
        self._required_until = 0.0
        self._locked_since: float | None = None

    async def run(self) -> None:
        """Run until cancelled; the answers of a running order are withdrawn then."""
        # A directory that cannot be read is reported in the first step.
        with suppress(OSError):
            if self._serving:
                self._last = await asyncio.to_thread(self._store.certificate, self._spec.hosts[0])
        while True:
            pause_s = await self._step()
            await asyncio.sleep(pause_s)

    def retry_now(self) -> None:
        """End a pause, unless the authority has required it (Retry-After)."""
        self._pause_until = self._required_until

    # Certificates

    async def _step(self) -> float:
        """Do what is due; return the seconds until the next step."""
        try:
            found = await self._read()
            why, left_s = self._judge(found)
            if not why:
                self._back_off.succeeded()
                self._locked_since = None
                return min(left_s, self._timings.rest_s)
            pause_s = self._pause_until - _now()
            if pause_s <= 0:
                await self._order_locked(why)
        except OSError as error:
            self._failed(f"cannot use {self._store.folder}: {error.strerror or error}")
            return self._pause_until - _now()
        return min(max(self._pause_until - _now(), 0.0), self._timings.poll_s)

    async def _read(self) -> IssuedCertificate | None:
        """Return the certificate in the directory; a new one is announced."""
        data = await asyncio.to_thread(self._store.certificate, self._spec.hosts[0])
        if data is None:
            return None
        found = pem.read(data)
        if data != self._last and found is not None:
            self._last = data
            self._announce()
        return found

    def _judge(self, found: IssuedCertificate | None) -> tuple[str, float]:
        """Return the reason to order another certificate, "" for none; then the seconds until there is one."""
        if found is None:
            return "there is none", 0.0
        if missing := [host for host in self._spec.hosts if host not in found.hosts]:
            return f"there is one, but not for {', '.join(missing)}", 0.0
        left_s = (schedule.renewal(found.begin, found.end, self._jitter) - datetime.now(UTC)).total_seconds()
        return ("", left_s) if left_s > 0 else (f"there is one that ends at {_time(found.end)}", 0.0)

    async def _order_locked(self, why: str) -> None:
        """Order, unless another node does.  Raises OSError."""
        with self._store.lock() as locked:
            if not locked and not self._waited_long():
                self._pause_until = _now() + self._timings.poll_s
                return
            self._locked_since = None
            # Another node may just have obtained one.
            if self._judge(await self._read())[0]:
                await self._order_one(why)

    def _waited_long(self) -> bool:
        if self._locked_since is None:
            self._locked_since = _now()
            _log.info("another node is ordering a certificate", directory=str(self._store.folder))
        if _now() - self._locked_since < self._timings.lock_limit_s:
            return False
        _log.warning(
            "another node has held the lock for too long; ordering all the same",
            seconds=self._timings.lock_limit_s,
        )
        return True

    async def _order_one(self, why: str) -> None:
        kind = self._spec.kinds[self._kind % len(self._spec.kinds)]
        facts = {"hosts": ", ".join(self._spec.hosts), "authority": self._spec.directory, "challenge": kind}
        _log.info("asking for a certificate", reason=why, **facts)
        answers = ChallengeAnswers(self._store, self._timings.spread_s)
        limit_s = 2 * self._timings.order_limit_s
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.to_thread(self._fetch, kind, answers)
        except OrderFailed as error:
            # Another kind of challenge may succeed.
            self._kind += error.challenge
            self._failed(str(error), error.wait_s)
        except TimeoutError:
            self._failed(f"{self._spec.directory} does not finish the order within {limit_s:g} s")
        except OSError:
            raise
        except Exception:  # noqa: BLE001  a bug must not cause one order after another
            _log.exception("asking for a certificate failed")
            self._failed("see above")
        except asyncio.CancelledError:
            # The thread runs until the process ends.
            answers.end()
            raise
        else:
            await self._done()

    def _fetch(self, kind: str, answers: ChallengeAnswers) -> None:
        """In a thread.  Raises `OrderFailed` and OSError."""
        store, spec = self._store, self._spec
        store.tidy(spec.hosts)
        account = pem.account_key(store.account() or b"")
        if account is None:
            account = pem.new_key()
            store.put_account(pem.key_pem(account))
            _log.info("a new account key", directory=str(store.folder))
        store.put_certificate(spec.hosts, self._obtain(spec, account, kind, answers, self._timings))

    async def _done(self) -> None:
        found = await self._read()
        why, _ = self._judge(found)
        if why or found is None:
            # Otherwise it would be ordered again at once, endlessly.
            self._failed(f"the new certificate is of no use: {why}; is the clock right?")
            return
        self._back_off.succeeded()
        _log.info(
            "a new certificate", hosts=", ".join(self._spec.hosts), until=_time(found.end), issuer=found.issuer
        )

    def _failed(self, cause: str, wait_s: float = 0.0) -> None:
        pause_s = self._back_off.failed(wait_s, random.random())  # noqa: S311  as above
        self._pause_until = _now() + pause_s
        self._required_until = _now() + wait_s
        _log.error("no new certificate", cause=cause, retry_in_seconds=round(pause_s))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
