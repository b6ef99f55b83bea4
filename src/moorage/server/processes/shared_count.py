"""A number in memory that the master shares with one worker: written by the worker, read by the master."""

from __future__ import annotations

import mmap

__all__ = ["SharedCount"]


class SharedCount:
    """A shared number, created by the master before it forks the worker; freed with the last of both processes."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")[:1]

    @property
    def value(self) -> int:
        return self._numbers[0]

    @property
    def memory(self) -> memoryview:
        """One element: the number itself, for callers that count often."""
        return self._numbers
