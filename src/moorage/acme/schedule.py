"""When: to renew, and to try again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.acme.order_spec import Pace

__all__ = ["BackOff", "renewal"]

_LEFT: Final = 1 / 3
_EARLIER: Final = 1 / 30


def renewal(begin: datetime, end: datetime, jitter: float) -> datetime:
    """When to renew: with a third of the lifetime left, and a thirtieth of it earlier for `jitter` 1.

    30 days before the end of a certificate of 90 days, as CNCF Distribution does.  Each node has a
    `jitter` of its own, from 0 to 1, so they begin one after the other, and the first does it for all.
    """
    return end - (end - begin) * (_LEFT + _EARLIER * jitter)


class BackOff:
    """Pauses that double, from `first_retry_s` to `last_retry_s`."""

    __slots__ = ("_failures", "_pace")

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._failures = 0

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, told_s: float, jitter: float) -> float:
        """Seconds until the next try: at least what the authority has told, a quarter more for `jitter` 1."""
        pause_s: float = self._pace.first_retry_s
        for _ in range(self._failures):
            pause_s = min(2 * pause_s, self._pace.last_retry_s)
        # More would not be longer: no limit is that long.
        self._failures = min(self._failures + 1, 64)
        return max(pause_s, told_s) * (1 + jitter / 4)
