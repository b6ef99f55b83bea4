"""Stamps: names of objects that record an event; they sort by its time, and no two are equal.

    20261129T214349.123456Z-0f3a9c51        UTC, microseconds, and four random bytes

The time is that of the clock of the node on which the event happened.

Above: `trash.py`.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Final

__all__ = ["new_stamp", "stamp_time", "utc_now"]

_STAMP: Final = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-[0-9a-f]{8}", re.ASCII)
_FORMAT: Final = "%Y%m%dT%H%M%S.%fZ"


def utc_now() -> datetime:
    """Return the time of this node."""
    return datetime.now(UTC)


def new_stamp(now: datetime) -> str:
    """Return a stamp of the time `now`, which is aware."""
    return f"{now.astimezone(UTC).strftime(_FORMAT)}-{os.urandom(4).hex()}"


def stamp_time(text: str) -> datetime | None:
    """Return the time of a stamp; None for a text that is none."""
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], _FORMAT).replace(tzinfo=UTC)
    except ValueError:  # a 13th month
        return None
