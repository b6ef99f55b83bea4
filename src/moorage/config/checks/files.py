"""Files that settings name: checked with the configuration, read by the modules that need them."""

from __future__ import annotations

from moorage.reloading import read_regular

__all__ = ["unreadable"]


def unreadable(path: str) -> str:
    """Return why a file cannot be read; "" if it can."""
    try:
        read_regular(path)
    except (OSError, ValueError) as error:
        return (error.strerror or str(error)) if isinstance(error, OSError) else "not a path"
    return ""
