"""Header `Via` of the request that is being answered, for the requests to other registries that it causes.

Mirrors pass the names on, each with its own behind them, so that a loop over several mirrors ends at the first one
that finds its own name; without them each would wait for the other.  Tasks that a request creates have its value.

Source: RFC 9110 section 7.6.3.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

__all__ = ["RECEIVED_VIA"]

RECEIVED_VIA: Final[ContextVar[str]] = ContextVar("RECEIVED_VIA", default="")
"""Value of the header, empty without one."""
