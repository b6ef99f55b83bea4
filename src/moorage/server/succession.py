"""The plan in force, and how another one follows it: after SIGHUP, or when other certificates lie there.

    awaiting a certificate ──► starting ──`begin`──► settled ──another plan──► replacing
                                                       ▲   ▲                     │     │
                                                       │   └─ all are replaced ──┘     │
                                                       └─── a new one cannot start ────┘

Replacing goes slot by slot: a fresh worker of the next plan starts, is ready and takes over.  The first that does
puts the next plan in force; where nobody serves it is in force at once.  If one cannot start, those that are left
stay as they are.

SIGHUP           loads the configuration again: while awaiting and settled at once, else as soon as it is settled
certificates     are looked at (`renewal.py`) while awaiting and while settled; another one replaces no worker: all
                 workers get it (`crew.exchange`) and use it for new connections

The rule not to miss: no plan is kept but in `plan` and `_next`.  Each holds a private key, and whatever the master
holds, in a variable of a function that is running too, is in the memory of the workers it forks meanwhile.

Above: `master.py`.  Below: `crew.py`, which starts the workers and knows how they are.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from moorage.server.cannot import Cannot
from moorage.server.renewal import POLL_S
from moorage.server.systemd import notify, reloading

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.model import Settings
    from moorage.server.companion import Companion
    from moorage.server.crew import Crew, Slot
    from moorage.server.plan import Plan

__all__ = ["Succession"]

_PATIENCE_S: Final = 60.0
"""What a service manager is asked for, again and again, while there is no certificate."""

_log: Final = structlog.get_logger("moorage.server")


class Succession:
    """`plan` is the one in force: what takes a dead worker's place is made from it.  `has_begun`: see `begin`.

    `reload` and `renew` make another one and raise `Cannot`.  `reload` reads the configuration again, `renew` only
    the certificates; it returns the same plan if they are the same.
    """

    def __init__(
        self,
        plan: Plan,
        crew: Crew,
        reload: Callable[[Plan], Plan],
        renew: Callable[[Plan], Plan],
        companion: Companion | None,
    ) -> None:
        self.plan = plan
        self.has_begun = False
        self._crew, self._companion = crew, companion
        self._load_again, self._renew = reload, renew
        self._next: Plan | None = None
        self._to_replace: list[Slot] = []
        self._reload_later = False
        self._look_at = 0.0
        self._has_ended = False

    # What is to happen when

    def begin(self) -> None:
        """The first workers serve, so from now on there is something to replace."""
        self.has_begun = True
        self._reload_as_told()

    def end(self) -> None:
        """The server stops: nothing changes any more, and nobody is started."""
        self._has_ended = True

    def due(self) -> list[float]:
        """When `keep_time` has something to do."""
        return [self._look_at] if self._looks() or self.plan.awaiting else []

    def keep_time(self, now: float) -> None:
        """Look at the certificates, if it is time to."""
        if now < self._look_at:
            return
        if self.plan.awaiting:
            self._look_at = now + _PATIENCE_S / 3
            # Nothing can be served yet; a service manager would take that for a start that hangs.
            notify(f"EXTEND_TIMEOUT_USEC={round(_PATIENCE_S * 1_000_000)}")
            if self._next is None and self.plan.watched.due(now):
                self._take(now)
        elif self._looks():
            self._look_at = now + POLL_S
            self._look(now)

    def certificate_written(self) -> None:
        """The companion has written one, whole: as if the files had stood still for long."""
        now = time.monotonic()
        if self._has_ended:
            return
        if (self.plan.awaiting and self._next is None) or self._looks():
            self.plan.watched.due(now)
            self._take(now)
        elif self.plan.awaiting:
            # Once the workers are replaced.
            self._look_at = now

    def keep_only(self, plan: Plan) -> None:
        """In a child of the master."""
        self.plan, self._next = plan, None

    # SIGHUP

    def reload(self) -> None:
        """Load the configuration again, now or when there is time for it."""
        if self._has_ended:
            return
        if self._next is not None or not (self.has_begun or self.plan.awaiting):
            self._reload_later = True
            return
        reloading()
        try:
            self._next = self._load_again(self.plan)
        except Cannot as error:
            _log.error("the configuration is not taken; the old one stays", cause=str(error))
            notify("READY=1")
            return
        self._replace_all()

    def _reload_as_told(self) -> None:
        """For a SIGHUP that came while there was no time for it."""
        if self._reload_later:
            self._reload_later = False
            self.reload()

    def _tell_companion(self, old: Settings) -> None:
        """The configuration has been loaded again."""
        before, after = old.http, self.plan.settings.http
        if self._companion is None:
            return
        if before.tls.letsencrypt == after.tls.letsencrypt and before.host == after.host:
            self._companion.again()
        else:
            self._companion.replace()

    # Certificates

    def _looks(self) -> bool:
        """Whether to look for other certificates; not while workers are being replaced, or there is none to be."""
        settled = self.has_begun and self._next is None
        return settled and bool(self.plan.watched.paths) and self._crew.has_current()

    def _look(self, now: float) -> None:
        watched = self.plan.watched
        if watched.due(now):
            self._take(now)
        if complaint := watched.complaint(now):
            _log.error("the renewed certificate is not taken; the old one stays", cause=complaint)

    def _take(self, now: float) -> None:
        """Serve the certificate that lies there now, if that is possible and it is another one."""
        watched, awaiting = self.plan.watched, self.plan.awaiting
        try:
            renewed = self._renew(self.plan)
        except Cannot as error:
            watched.refuse(str(error), now)
            if awaiting:
                _log.error("the certificate cannot be served", cause=str(error))
            return
        changed = watched.accept(now)
        tls = renewed.options.tls
        if renewed is self.plan or tls is None:
            return
        self.plan = renewed
        self._crew.exchange(renewed)
        if not awaiting:
            _log.info(
                "certificate renewed", files=", ".join(changed or watched.paths), subject=tls.subject,
                until=tls.until.isoformat(),
            )  # fmt: skip

    # Replacing all

    def _replace_all(self) -> None:
        if not any(slot.current for slot in self._crew.slots):
            # Nobody serves, so there is nothing that the next plan could spoil.
            self._put_in_force()
        self._to_replace = list(self._crew.slots)
        self._replace_next()

    def _replace_next(self) -> None:
        while self._to_replace and self._next is not None:
            slot = self._to_replace.pop(0)
            worker = self._crew.start(slot, self._next)
            if worker is not None and worker is slot.fresh:
                return
            # The slot was empty, so nobody waits for this one; the crew sees if it does not come up.
        self._end_replacing()

    def taken_over(self) -> None:
        """A fresh worker has taken over, so the next one is due."""
        if self._has_ended:
            return
        # It has proved to work, so whoever is replaced from now on gets the new configuration.
        self._put_in_force()
        self._replace_next()

    def _put_in_force(self) -> None:
        # The old plan is not kept here: workers that are forked after this would have its private key.
        if self._next is not None:
            before, self.plan = self.plan.settings, self._next
            if before is not self.plan.settings:
                self._tell_companion(before)

    def abort(self) -> None:
        """A fresh worker could not start: whoever was not replaced yet stays."""
        self._to_replace = []
        self._end_replacing()

    def _end_replacing(self) -> None:
        if self._next is not None and self.plan is self._next:
            _log.info("configuration reloaded", source=self.plan.source)
        self._next = None
        if self.has_begun:
            notify("READY=1")
        self._reload_as_told()
