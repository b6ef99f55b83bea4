"""When a process that has died is started again: at once, then after 1, 2, 4, 8, 15 and 30 seconds.

What cannot start must not eat the machine, and what ran well for a while is not blamed for what was before.
Above: `worker_pool.py` for each worker, `server/housekeeper/supervisor.py`.  Times are seconds of a monotonic
clock, passed in.
"""

from __future__ import annotations

from typing import Final

from moorage.backoff import Backoff

__all__ = ["Retry"]

_BACKOFF: Final = Backoff((0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0))
_STEADY_S: Final = 30.0
"""Whoever lived longer has not failed to start, whatever became of it later."""


class Retry:
    """`at`: when to start it, None while there is nothing to start."""

    __slots__ = ("_failures", "at")

    def __init__(self) -> None:
        self.at: float | None = None
        self._failures = 0

    def after(self, now: float, lived_s: float = 0.0) -> float:
        """It has died, or could not even be started: how many seconds from `now` it is to be started again."""
        if lived_s > _STEADY_S:
            self._failures = 0
        self._failures += 1
        wait_s = _BACKOFF.delay_s(self._failures)
        self.at = now + wait_s
        return wait_s

    def is_due(self, now: float) -> bool:
        return self.at is not None and now >= self.at

    def cancel(self) -> None:
        """It is being started, or never will be again."""
        self.at = None

    def forgive(self) -> None:
        """The next wait is the shortest."""
        self._failures = 0
