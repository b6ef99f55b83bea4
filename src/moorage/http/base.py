"""`/v2/`: API version check and login check of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.http.reply import Reply

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["get_base"]

_HEADERS: Final = ((b"content-type", b"application/json"), (b"content-length", b"2"))


async def get_base(call: Call) -> Reply:
    """end-1, GET /v2/: 200 with exactly `{}`."""
    del call
    return Reply(200, _HEADERS, b"{}")
