"""Content of `HOME/startedat`, the start time of an upload: UTC, RFC 3339, whole seconds.

CNCF Distribution's purger reads this file, and keeps an upload forever without a readable one, so every driver
writes it alike.  Source: docs/reference/storage-layout.md, sections 1 and 5.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

__all__ = ["started_at", "text_of"]


def text_of(started: datetime) -> bytes:
    """Return the content for `started`, which is in UTC, without a fraction of a second."""
    return started.isoformat().removesuffix("+00:00").encode() + b"Z"


def started_at(text: bytes) -> datetime | None:
    """Return the time; None for other content, or a time without a zone."""
    with suppress(ValueError):
        found = datetime.fromisoformat(text.decode("ascii").strip())
        if found.tzinfo is not None:
            return found
    return None
