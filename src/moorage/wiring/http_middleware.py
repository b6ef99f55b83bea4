"""What stands around the application in every worker, as far as settings decide it.

    RequestLog (ids, access log) ─► Cors ─► HealthGate ─► the application

Cross-origin headers go around the health check, so that a page sees its 503 as what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.http.clients import Clients
from moorage.http.cors import Cors, CorsRules
from moorage.http.middleware import RequestLog
from moorage.http.probes import PROBES, HealthGate
from moorage.logs.access_log import AccessLog

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.health_checks import Health
    from moorage.http.middleware import ASGIApp, Observer, Traffic

__all__ = ["surround"]

_PROBED: Final = frozenset({"/", *PROBES})
"""`/` as well: what probes CNCF Distribution asks there."""


def surround(
    app: ASGIApp, health: Health, traffic: Traffic, settings: Settings, observer: Observer | None = None
) -> ASGIApp:
    """`app` with everything around it; `observer` counts requests."""
    log = settings.log
    access = None if log.accesslog.disabled else AccessLog(log.formatter)
    gated: ASGIApp = HealthGate(app, health, traffic)
    if settings.http.cors.origins:
        gated = Cors(gated, _rules(settings))
    unlogged = () if log.accesslog.probes else _PROBED
    return RequestLog(gated, traffic, access, Clients(settings.http.trustedproxies), observer, unlogged)


def _rules(settings: Settings) -> CorsRules:
    cors = settings.http.cors
    return CorsRules(
        origins=frozenset(cors.origins),
        credentials=cors.credentials,
        max_age_s=max(1, round(cors.maxage)),
        methods=cors.methods,
        allow_headers=cors.allowheaders,
        expose_headers=cors.exposeheaders,
    )
