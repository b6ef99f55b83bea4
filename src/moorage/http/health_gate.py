"""Health gate: while a health check fails, every path answers 503 UNAVAILABLE, `/` and `/v2/` included.

Load balancers and clients then use other nodes.  The answer refers to `/debug/health`, as that of CNCF
Distribution does; the reason is in the log.  The rows `routes.PROBES` are answered here, in any state.

Source: docs/reference/configuration.md, section 12.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from moorage.errors import Unavailable
from moorage.http import routes
from moorage.http.errors import STATUS
from moorage.http.probes import ProbeRequest, page
from moorage.http.reply import API_VERSION

if TYPE_CHECKING:
    from moorage.health_checks import HealthChecks
    from moorage.http.middleware import ASGIApp, Receive, Scope, Send, Traffic
    from moorage.http.reply import Answer

__all__ = ["HealthGate"]

_REFUSAL: Final = Unavailable("health check failed: please see /debug/health")
_BODY: Final = json.dumps({"errors": _REFUSAL.entries()}, separators=(",", ":")).encode() + b"\n"
_PROBES: Final = {route.pattern: route for route in routes.PROBES}


class HealthGate:
    """Passes requests to `app` while no check fails, and answers the probes."""

    def __init__(self, app: ASGIApp, health: HealthChecks, traffic: Traffic) -> None:
        self._app = app
        self._health = health
        self._request = ProbeRequest(health, traffic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (probe := _PROBES.get(scope["path"])) is not None:
            scope["moorage.route"] = probe
            answer: Answer = page(405, b"text/plain", b"method not allowed\n", (b"allow", b"GET, HEAD"))
            if (found := probe.methods.get(scope["method"])) is not None:
                answer = await found[0](self._request)
            await answer(scope, receive, send)
        elif self._health.refusing:
            scope["moorage.refusal"] = _REFUSAL.code
            refusal = page(STATUS[Unavailable], b"application/json", _BODY, API_VERSION)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)
