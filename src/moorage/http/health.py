"""While a health check fails, every path answers 503 UNAVAILABLE, `/` and `/v2/` included.

Load balancers and clients then go elsewhere.  The answer points to `/debug/health`, as the reference's does; the
reason stands in the log.  Source: reference/configuration.md section 12.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from moorage.errors import Unavailable
from moorage.http.errors import STATUS

if TYPE_CHECKING:
    from moorage.health import Health
    from moorage.http.middleware import ASGIApp, Receive, Scope, Send

__all__ = ["HealthGate"]

_REFUSAL: Final = Unavailable("health check failed: please see /debug/health")
_BODY: Final = json.dumps({"errors": _REFUSAL.entries()}, separators=(",", ":")).encode() + b"\n"
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_BODY)),
    (b"docker-distribution-api-version", b"registry/2.0"),
)


class HealthGate:
    """Lets requests through to `app` while nothing fails."""

    def __init__(self, app: ASGIApp, health: Health) -> None:
        self._app, self._health = app, health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._health.failing or scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": STATUS[Unavailable], "headers": list(_HEADERS)})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else _BODY})
