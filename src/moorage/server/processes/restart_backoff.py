"""Back-off before something that failed is started again: at once, then after 1, 2, 4, 8, 15 and 30 seconds.

A process that cannot start must not use up the machine; one that ran for a while starts again at once.
Above: `worker_pool.py` for each worker, `helper_process.py`, `server/housekeeper/jobs.py`.  Times are seconds of a
monotonic clock, passed in.
"""

from __future__ import annotations

from typing import Final

from moorage.backoff import Backoff

__all__ = ["RestartBackoff"]

_BACKOFF: Final = Backoff((0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0))
_STEADY_S: Final = 30.0
"""Longer runs do not count as failed starts."""


class RestartBackoff:
    """`at` is when to start again; None while nothing is to be started."""

    __slots__ = ("_failures", "at")

    def __init__(self) -> None:
        self.at: float | None = None
        self._failures = 0

    def after(self, now: float, lived_s: float = 0.0) -> float:
        """Record an end after `lived_s` seconds, or a failed start; return the seconds until the next start."""
        if lived_s > _STEADY_S:
            self._failures = 0
        self._failures += 1
        wait_s = _BACKOFF.delay_s(self._failures)
        self.at = now + wait_s
        return wait_s

    def is_due(self, now: float) -> bool:
        return self.at is not None and now >= self.at

    def cancel(self) -> None:
        """Schedule nothing: it is being started, or never will be again."""
        self.at = None

    def forgive(self) -> None:
        """Make the next wait the shortest."""
        self._failures = 0
