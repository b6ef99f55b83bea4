"""`/v2/`: is this a registry, and who am I to it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["get_base"]


async def get_base(call: Call) -> Response:
    """end-1, GET /v2/: 200 with exactly `{}`."""
    del call
    return Response(b"{}", headers={"content-type": "application/json"})
