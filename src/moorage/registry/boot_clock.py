"""Clock for leases and for what processes agree on without messages.

Above: `links.py`, `collection_gate.py`.
"""

from __future__ import annotations

import time
from typing import Final

__all__ = ["boot_seconds"]

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_seconds() -> float:
    """Return the time of a monotonic clock; where the system has such, one that runs while the machine sleeps."""
    return time.clock_gettime(_CLOCK)
