"""When: to renew, and to try again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.backoff import Backoff

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.acme.order_spec import Pace

__all__ = ["RenewalBackoff", "renewal"]

_LEFT: Final = 1 / 3
_EARLIER: Final = 1 / 30


def renewal(begin: datetime, end: datetime, jitter: float) -> datetime:
    """When to renew: with a third of the lifetime left, and a thirtieth of it earlier for `jitter` 1.

    30 days before the end of a certificate of 90 days, as CNCF Distribution does.  Each node has a
    `jitter` of its own, from 0 to 1, so they begin one after the other, and the first does it for all.
    """
    return end - (end - begin) * (_LEFT + _EARLIER * jitter)


class RenewalBackoff:
    """Delays between attempts: exponential, but never shorter than the authority demands."""

    __slots__ = ("_backoff", "_failures")

    def __init__(self, pace: Pace) -> None:
        self._backoff = Backoff.exponential(pace.first_retry_s, pace.last_retry_s)
        self._failures = 0

    def succeeded(self) -> None:
        """Start again at the shortest delay."""
        self._failures = 0

    def failed(self, demanded_s: float, jitter: float) -> float:
        """Return seconds until the next attempt: at least `demanded_s`, and a quarter more for `jitter` 1."""
        self._failures += 1
        return max(self._backoff.delay_s(self._failures), demanded_s) * (1 + jitter / 4)
