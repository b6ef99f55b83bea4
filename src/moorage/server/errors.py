"""What keeps the server from starting, or from taking another configuration."""

from __future__ import annotations

__all__ = ["Cannot"]


class Cannot(Exception):
    """It cannot be done as it is wanted; the message is for the operator."""
