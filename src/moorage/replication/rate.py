"""Limit of the bytes per second of all transfers of a run together."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["RateLimit"]


class RateLimit:
    """Delays each chunk until the chunks before it have had their time; an idle second is not saved up."""

    def __init__(
        self,
        bytes_per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._seconds_per_byte = 1 / bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    async def take(self, size: int) -> None:
        """Wait until `size` more bytes may pass."""
        now = self._clock()
        begins = max(self._free_at, now)
        self._free_at = begins + size * self._seconds_per_byte
        if begins > now:
            await self._sleep(begins - now)
