"""Failures that may have passed when the same is tried again."""

from __future__ import annotations

from moorage.errors import Unavailable
from moorage.upstream.errors import UpstreamRateLimited, UpstreamUnreachable

__all__ = ["is_temporary", "retry_after_s"]


def is_temporary(error: BaseException) -> bool:
    """Return whether another attempt may succeed: a connection or a store that fails, a rate limit."""
    return isinstance(error, UpstreamUnreachable | UpstreamRateLimited | Unavailable)


def retry_after_s(error: BaseException) -> float | None:
    """Return the seconds for which the registry asks to wait, None if it names none."""
    return error.retry_after_s if isinstance(error, UpstreamRateLimited) else None
