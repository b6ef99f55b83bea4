"""Back-off: growing delays between attempts of an operation that keeps failing.

    failures in a row     1          2            3            ...   n
    exponential           first_s    2 first_s    4 first_s    ...   longest_s

A `Backoff` is a value: the caller counts failures in a row and passes the count, so that one constant serves any
number of operations.  Jitter is separate, because not every user wants it.

Used for requests to stores, restarts of processes, renewals of certificates and waits after failed logins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Backoff", "equal_jitter"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds after the first, second, ... failure in a row; the last one repeats."""

    delays_s: tuple[float, ...]

    @classmethod
    def exponential(cls, first_s: float, longest_s: float) -> Backoff:
        """Return delays that double from `first_s` (more than 0) up to `longest_s`, both in seconds."""
        delays_s = []
        delay_s = first_s
        while delay_s < longest_s:
            delays_s.append(delay_s)
            delay_s *= 2
        return cls((*delays_s, longest_s))

    def delay_s(self, failures: int) -> float:
        """Return seconds to wait after that many failures in a row; 1 for the first failure."""
        return self.delays_s[min(failures, len(self.delays_s)) - 1]


def equal_jitter(delay_s: float) -> float:
    """Return a random delay between half of `delay_s` and all of it.

    Clients that failed together do not retry together ("Equal Jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    return random.uniform(delay_s / 2, delay_s)  # noqa: S311  no secret
