"""Checks that files named by settings can be read."""

from __future__ import annotations

from moorage.reloading import read_regular

__all__ = ["unreadable"]


def unreadable(path: str) -> str:
    """Return the reason why a file cannot be read; "" if it can."""
    try:
        read_regular(path)
    except (OSError, ValueError) as error:
        return (error.strerror or str(error)) if isinstance(error, OSError) else "not a path"
    return ""
