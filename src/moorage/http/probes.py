"""While a health check fails, every path answers 503 UNAVAILABLE, `/` and `/v2/` included.

Load balancers and clients then go elsewhere.  The answer points to `/debug/health`, as the reference's does; the
reason is in the log.

Two paths tell orchestrators what the reference cannot, that a registry is alive without being of use just now:

    /livez    200 as long as this process answers: to restart it would mend nothing
    /readyz   503 while a check fails, and while the server stops: send no clients here

A registry whose storage cannot be written to is ready: pulls are served, and taking every node out of service
would stop those as well.  `/readyz` is 200 with the reason then.

They need no credentials and name no failing checks, whose reasons may hold names of internal hosts; those are on
the debug listener (`debug.py`) and in the log.

Source: docs/reference/configuration.md, section 12; Kubernetes' API server has the two names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.errors import Unavailable
from moorage.http.errors import STATUS

if TYPE_CHECKING:
    from moorage.health_checks import Health
    from moorage.http.middleware import ASGIApp, Receive, Scope, Send, Traffic

__all__ = ["PROBES", "HealthGate", "answer", "degraded"]

_REFUSAL: Final = Unavailable("health check failed: please see /debug/health")
_BODY: Final = json.dumps({"errors": _REFUSAL.entries()}, separators=(",", ":")).encode() + b"\n"
_VERSION: Final = (b"docker-distribution-api-version", b"registry/2.0")
_READS: Final = frozenset({"GET", "HEAD"})
_NO_STORE: Final = (b"cache-control", b"no-store")


class _Probe(NamedTuple):
    """What `routes.Route` is for the endpoints, as far as metrics and traces are concerned."""

    label: str
    pattern: str


PROBES: Final = {path: _Probe("health", path) for path in ("/livez", "/readyz")}


class HealthGate:
    """Lets requests through to `app` while nothing fails, and answers the two paths."""

    def __init__(self, app: ASGIApp, health: Health, traffic: Traffic) -> None:
        self._app, self._health, self._traffic = app, health, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (probe := PROBES.get(scope["path"])) is not None:
            scope["moorage.route"] = probe
            await self._probe(scope, send)
        elif self._health.refusing:
            scope["moorage.refusal"] = _REFUSAL.code
            await answer(scope, send, STATUS[Unavailable], b"application/json", _BODY, _VERSION)
        else:
            await self._app(scope, receive, send)

    async def _probe(self, scope: Scope, send: Send) -> None:
        if scope["method"] not in _READS:
            await answer(scope, send, 405, b"text/plain", b"method not allowed\n", (b"allow", b"GET, HEAD"))
        elif scope["path"] == "/readyz" and (self._health.refusing or self._traffic.stopping):
            await answer(scope, send, 503, b"text/plain", b"not ready\n", _NO_STORE)
        elif scope["path"] == "/readyz" and (report := self._health.storage()).degraded:
            await answer(scope, send, 200, b"text/plain", degraded(report.reason), _NO_STORE)
        else:
            await answer(scope, send, 200, b"text/plain", b"ok\n", _NO_STORE)


def degraded(reason: str) -> bytes:
    """The body of `/readyz` while pushes are refused."""
    return f"degraded: pushes are refused: {reason}\n".encode(errors="backslashreplace")


async def answer(
    scope: Scope, send: Send, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]
) -> None:
    """A whole answer; HEAD gets the headers only."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
