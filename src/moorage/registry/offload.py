"""CPU-bound work on large documents, outside the event loop.

A worker serves all its requests in one thread.  Reading a manifest of 4 MiB takes up to 0.2 s of CPU; other
requests must not wait for that, and twenty such documents at once must not take twenty times the memory.

Above: `manifests.py`, `manifest_contents.py`, `referrers.py`.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Offload"]

_T = TypeVar("_T")

_INLINE_BYTES: Final = 16 << 10
"""Most manifests are smaller (an index with 50 platforms has 12 kB), and cost less than a change of threads."""


class Offload:
    """Runs work on small documents at once, on large ones in a thread of its own, one after another.

    One thread, since Python runs one at a time anyway; the interpreter changes between it and the event loop every
    5 ms.  Cancelling a caller does not stop work that has begun, so the bound on memory holds for it as well.
    """

    def __init__(self, *, inline_bytes: int = _INLINE_BYTES) -> None:
        self._inline_bytes = inline_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="manifests")  # started when first used

    async def run(self, size_bytes: int, work: Callable[[], _T]) -> _T:
        """Return the result of `work` on a document of `size_bytes`; its exception is raised."""
        if size_bytes <= self._inline_bytes:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
