"""`/livez` and `/readyz`: liveness and readiness for orchestrators, without credentials.

    /livez    200 as long as this process answers: a restart would not help
    /readyz   503 while a health check fails, and while the server stops: no clients should be sent here

A registry whose storage is not writable is ready: pulls are served, and taking every node out of service would
stop those as well.  `/readyz` is then 200 with the reason.

Failing checks are not named, since their reasons may contain names of internal hosts; those are on the debug
listener (`debug.py`) and in the log.

Dispatched by: `health_gate.py`.
Source: docs/reference/configuration.md, section 12; Kubernetes' API server has the two names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.http.reply import Reply

if TYPE_CHECKING:
    from moorage.health_checks import HealthChecks
    from moorage.http.middleware import Traffic
    from moorage.http.reply import Answer, Header

__all__ = ["NO_STORE", "ProbeRequest", "degraded", "get_livez", "get_readyz", "page"]

NO_STORE: Final = (b"cache-control", b"no-store")
_TEXT: Final = b"text/plain"


class ProbeRequest(NamedTuple):
    """State that decides the answers."""

    health: HealthChecks
    traffic: Traffic


async def get_livez(request: ProbeRequest) -> Answer:
    """`/livez`: 200."""
    del request
    return page(200, _TEXT, b"ok\n", NO_STORE)


async def get_readyz(request: ProbeRequest) -> Answer:
    """`/readyz`: 200, or 503."""
    health = request.health
    if health.refusing or request.traffic.stopping:
        return page(503, _TEXT, b"not ready\n", NO_STORE)
    report = health.storage()
    return page(200, _TEXT, degraded(report.reason) if report.degraded else b"ok\n", NO_STORE)


def degraded(reason: str) -> bytes:
    """Return the body of `/readyz` while pushes are refused."""
    return f"degraded: pushes are refused: {reason}\n".encode(errors="backslashreplace")


def page(status: int, kind: bytes, body: bytes, *more: Header) -> Reply:
    """Return an answer with Content-Type, Content-Length and the headers `more`."""
    return Reply(status, [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *more], body)
