"""Times of renewals, and of attempts after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.backoff import Backoff

if TYPE_CHECKING:
    from datetime import datetime

    from moorage.acme.order_spec import Timings

__all__ = ["RenewalBackoff", "renewal"]

_LEFT: Final = 1 / 3
_EARLIER: Final = 1 / 30


def renewal(begin: datetime, end: datetime, jitter: float) -> datetime:
    """Return when to renew: with a third of the lifetime left, and a thirtieth of it earlier for `jitter` 1.

    30 days before the end of a certificate of 90 days, as CNCF Distribution does.  Each node has a
    `jitter` of its own, from 0 to 1, so that one begins first and renews for all.
    """
    return end - (end - begin) * (_LEFT + _EARLIER * jitter)


class RenewalBackoff:
    """Delays between attempts: exponential, but never shorter than the authority demands."""

    __slots__ = ("_backoff", "_failures")

    def __init__(self, timings: Timings) -> None:
        self._backoff = Backoff.exponential(timings.first_retry_s, timings.last_retry_s)
        self._failures = 0

    def succeeded(self) -> None:
        """Start again at the shortest delay."""
        self._failures = 0

    def failed(self, required_s: float, jitter: float) -> float:
        """Return the seconds until the next attempt: at least `required_s`, and a quarter more for `jitter` 1."""
        self._failures += 1
        return max(self._backoff.delay_s(self._failures), required_s) * (1 + jitter / 4)
