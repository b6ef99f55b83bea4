"""Files that settings name: looked at while the configuration is checked, read by whoever needs them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["unreadable"]


def unreadable(path: str) -> str:
    """Why a file cannot be read; "" when it can."""
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        return (error.strerror or str(error)) if isinstance(error, OSError) else "not a path"
    return ""
