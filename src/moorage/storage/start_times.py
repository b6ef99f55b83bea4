"""When an upload began, as `HOME/startedat` says it: UTC, RFC 3339, whole seconds.

The reference's purger goes by this file, and keeps an upload forever that has none it can read, so every driver
writes it alike.  Source: docs/reference/storage-layout.md, sections 1 and 7.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

__all__ = ["started_at", "text_of"]


def text_of(started: datetime) -> bytes:
    """`started` is in UTC, without a fraction of a second."""
    return started.isoformat().removesuffix("+00:00").encode() + b"Z"


def started_at(text: bytes) -> datetime | None:
    """None for what is no time, or a time of nobody knows which zone."""
    with suppress(ValueError):
        found = datetime.fromisoformat(text.decode("ascii").strip())
        if found.tzinfo is not None:
            return found
    return None
