"""Rolling restart: replaces workers one by one after SIGHUP; renewed certificates are exchanged in place.

    awaiting a certificate ──► starting ──`begin`──► settled ──another plan──► replacing
                                                       ▲   ▲                     │     │
                                                       │   └─ all are replaced ──┘     │
                                                       └─── a new one cannot start ────┘

Workers are replaced slot by slot: a new worker with the next plan starts, becomes ready and takes over.  The first
one makes the next plan the current one; without any serving worker it is current at once.  If one cannot start,
the remaining workers keep the old plan.

SIGHUP           reloads the configuration: at once while awaiting or settled, else as soon as it is settled
certificates     are polled (`server/tls/file_watch.py`) while awaiting or settled; a renewed one replaces no
                 worker: it is sent to all workers (`WorkerPool.send_certificate`), which use it for new
                 connections

Invariant: plans are referenced by `plan` and `_next` only.  Each holds a private key, and all that the master
references, local variables of running functions included, is in the memory of the workers it forks.

Above: `master.py`.  Below: `worker_pool.py`, which starts the workers and tracks their state.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from moorage.server.processes.systemd import notify, reloading
from moorage.server.tls.file_watch import POLL_S
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.server.processes.worker_config import Plan
    from moorage.server.processes.worker_pool import Slot, WorkerPool

__all__ = ["RollingRestart"]

_START_EXTENSION_S: Final = 60.0
"""Seconds by which the start timeout of the service manager is extended, repeatedly, without a certificate."""

_log: Final = structlog.get_logger("moorage.server")


class RollingRestart:
    """`plan` is the current one, from which dead workers are replaced.  `has_begun`: see `begin`.

    `reload` and `renew` return another plan and raise `StartupError`.  `reload` reads the configuration again,
    `renew` only the certificates; it returns the same plan if they are unchanged.  `reloaded` is called when
    another configuration is in force.
    """

    def __init__(
        self,
        plan: Plan,
        pool: WorkerPool,
        reload: Callable[[Plan], Plan],
        renew: Callable[[Plan], Plan],
        reloaded: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.has_begun = False
        self._pool = pool
        self._reloaded = reloaded
        self._reload_settings = reload
        self._renew = renew
        self._next: Plan | None = None
        self._to_replace: list[Slot] = []
        self._reload_later = False
        self._poll_at = 0.0
        self._has_ended = False

    # Schedule

    def begin(self) -> None:
        """Enable replacements: the first workers serve."""
        self.has_begun = True
        self._reload_if_pending()

    def end(self) -> None:
        """Shut down: no more replacements or new workers."""
        self._has_ended = True

    def due(self) -> list[float]:
        """Return the times at which `run_due` is to be called."""
        return [self._poll_at] if self._polls() or self.plan.awaiting else []

    def run_due(self, now: float) -> None:
        """Poll the certificates if that is due."""
        if now < self._poll_at:
            return
        if self.plan.awaiting:
            self._poll_at = now + _START_EXTENSION_S / 3
            # The service manager would take the wait for a hanging start.
            notify(f"EXTEND_TIMEOUT_USEC={round(_START_EXTENSION_S * 1_000_000)}")
            if self._next is None and self.plan.watched.due(now):
                self._read_certificates(now)
        elif self._polls():
            self._poll_at = now + POLL_S
            self._poll(now)

    def certificate_written(self) -> None:
        """Use the certificate that the housekeeper has written completely, without waiting for a second poll."""
        now = time.monotonic()
        if self._has_ended:
            return
        if (self.plan.awaiting and self._next is None) or self._polls():
            self.plan.watched.due(now)
            self._read_certificates(now)
        elif self.plan.awaiting:
            # Once the workers are replaced.
            self._poll_at = now

    def keep_only(self, plan: Plan) -> None:
        """Drop all other plans in a child of the master."""
        self.plan = plan
        self._next = None

    # SIGHUP

    def reload(self) -> None:
        """Reload the configuration, now or after the current replacement."""
        if self._has_ended:
            return
        if self._next is not None or not (self.has_begun or self.plan.awaiting):
            self._reload_later = True
            return
        reloading()
        try:
            self._next = self._reload_settings(self.plan)
        except StartupError as error:
            _log.error("the configuration is not taken; the old one stays", cause=str(error))
            notify("READY=1")
            return
        self._replace_all()

    def _reload_if_pending(self) -> None:
        """Handle a SIGHUP that arrived during a replacement."""
        if self._reload_later:
            self._reload_later = False
            self.reload()

    # Certificates

    def _polls(self) -> bool:
        """Return whether certificates are polled: not during a replacement, or without certificate files."""
        settled = self.has_begun and self._next is None
        return settled and bool(self.plan.watched.paths) and self._pool.has_current()

    def _poll(self, now: float) -> None:
        watched = self.plan.watched
        if watched.due(now):
            self._read_certificates(now)
        if cause := watched.reportable_cause(now):
            _log.error("the renewed certificate is not taken; the old one stays", cause=cause)

    def _read_certificates(self, now: float) -> None:
        """Read the certificate files, and use them if they are valid and changed."""
        watched, awaiting = self.plan.watched, self.plan.awaiting
        try:
            renewed = self._renew(self.plan)
        except StartupError as error:
            watched.refuse(str(error), now)
            if awaiting:
                _log.error("the certificate cannot be served", cause=str(error))
            return
        changed = watched.accept(now)
        tls = renewed.options.tls
        if renewed is self.plan or tls is None:
            return
        self.plan = renewed
        self._pool.send_certificate(renewed)
        if not awaiting:
            _log.info(
                "certificate renewed", files=", ".join(changed or watched.paths), subject=tls.subject,
                until=tls.until.isoformat(),
            )  # fmt: skip

    # Replacing all

    def _replace_all(self) -> None:
        if not any(slot.current for slot in self._pool.slots):
            # No worker serves, so the next plan cannot break anything.
            self._make_current()
        self._to_replace = list(self._pool.slots)
        self._replace_next()

    def _replace_next(self) -> None:
        while self._to_replace and self._next is not None:
            slot = self._to_replace.pop(0)
            worker = self._pool.start(slot, self._next)
            if worker is not None and worker is slot.replacement:
                return
            if worker is None and slot.current is not None:
                _log.error("no new worker could be started: the old ones stay", worker=slot.number)
                self._to_replace = []
            # Else the slot was empty: not waited for; the pool handles a failed start.
        self._end_replacing()

    def taken_over(self) -> None:
        """Replace the next worker after a new one has taken over."""
        if self._has_ended:
            return
        # The plan works, so workers that die from now on are replaced with the new configuration.
        self._make_current()
        self._replace_next()

    def _make_current(self) -> None:
        # The old plan is not kept here: workers that are forked after this would have its private key.
        if self._next is not None:
            before, self.plan = self.plan.settings, self._next
            if before is not self.plan.settings:
                self._reloaded()

    def abort(self) -> None:
        """Stop the replacement after a failed start: the remaining workers keep the old plan."""
        self._to_replace = []
        self._end_replacing()

    def _end_replacing(self) -> None:
        if self._next is not None and self.plan is self._next:
            _log.info("configuration reloaded", source=self.plan.source)
        self._next = None
        if self.has_begun:
            notify("READY=1")
        self._reload_if_pending()
