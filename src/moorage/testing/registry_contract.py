"""Contract suite for implementations of `registry.interface.Registry`."""

from __future__ import annotations

import os
from io import FileIO
from typing import TYPE_CHECKING

from moorage.registry.interface import FoundBlob

if TYPE_CHECKING:
    from moorage.registry.interface import Redirect

__all__ = ["content_of"]


async def content_of(found: Redirect | FoundBlob) -> bytes:
    """Return the selected bytes of a blob; an open file is closed."""
    assert isinstance(found, FoundBlob)
    content, span = found.content, range(found.size) if found.span is None else found.span
    if isinstance(content, bytes):
        return content
    if isinstance(content, FileIO):
        with content:
            return os.pread(content.fileno(), len(span), span.start)
    async with content as pieces:
        return b"".join([piece async for piece in pieces])
