"""The HTTP part of a worker: options of the handlers, the token endpoint, and the middleware.

    RequestLog (ids, access log) ─► Cors ─► HealthGate ─► the application

CORS headers are added outside the health check, so that a page of another origin can read its 503.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from moorage.http.clients import Clients
from moorage.http.cors import CorsMiddleware, CorsRules
from moorage.http.health_gate import HealthGate
from moorage.http.middleware import RequestLog
from moorage.http.options import HttpOptions
from moorage.http.routes import PROBES
from moorage.logs.access_log import AccessLogWriter
from moorage.wiring.proxy import is_mirror, namespaces

if TYPE_CHECKING:
    from moorage.auth.access import Authority
    from moorage.config.model import Settings
    from moorage.health_checks import HealthChecks
    from moorage.http.middleware import ASGIApp, Observer, Traffic
    from moorage.http.token import TokenEndpoint

__all__ = ["build_stack", "http_options", "token_endpoint"]

_PROBED: Final = frozenset({"/", *(route.pattern for route in PROBES)})
"""Paths of probes; probes of CNCF Distribution request `/`."""


def build_stack(
    app: ASGIApp, health: HealthChecks, traffic: Traffic, settings: Settings, observer: Observer | None = None
) -> ASGIApp:
    """Return `app` inside the configured middleware; `observer` counts requests."""
    log = settings.log
    access = None if log.accesslog.disabled else AccessLogWriter(log.formatter)
    gated: ASGIApp = HealthGate(app, health, traffic)
    if settings.http.cors.origins:
        gated = CorsMiddleware(gated, _cors_rules(settings))
    unlogged = () if log.accesslog.probes else _PROBED
    return RequestLog(gated, traffic, access, Clients(settings.http.trustedproxies), observer, unlogged)


def token_endpoint(settings: Settings, authority: Authority | None) -> TokenEndpoint | None:
    """Return the endpoint `/token` of `auth.local`; None without it."""
    if settings.auth.local is None or authority is None:
        return None
    from moorage.auth.local.authority import LocalAuthority
    from moorage.http.token import TokenEndpoint

    assert isinstance(authority, LocalAuthority)
    return TokenEndpoint(authority, settings.http.bodytimeout, Clients(settings.http.trustedproxies))


def instance_of(secret: bytes) -> str:
    """Return the name of this registry in the header `Via`, the same on all nodes."""
    return f"moorage-{hmac.digest(secret, b'via', 'sha256').hex()[:16]}"


def http_options(settings: Settings, *, via: str = "") -> HttpOptions:
    """Return the options of the request handlers; `via` is the name of this registry in the header `Via`."""
    http = settings.http
    return HttpOptions(
        host=http.host,
        prefix=f"{http.prefix.rstrip('/')}/",
        relativeurls=http.relativeurls,
        headers=tuple((name, value) for name, values in http.headers.items() for value in values),
        catalog_max_entries=settings.catalog.maxentries,
        tags_max=settings.tags.maxtags,
        readonly=settings.storage.maintenance.readonly.enabled,
        body_timeout_s=http.bodytimeout,
        classes_matter=bool(settings.policy.repository.classes),
        clients=Clients(http.trustedproxies),
        namespaces=namespaces(settings),
        via=via.encode() if is_mirror(settings) else b"",
    )


def _cors_rules(settings: Settings) -> CorsRules:
    cors = settings.http.cors
    return CorsRules(
        origins=frozenset(cors.origins),
        credentials=cors.credentials,
        max_age_s=max(1, round(cors.maxage)),
        methods=cors.methods,
        allow_headers=cors.allowheaders,
        expose_headers=cors.exposeheaders,
    )
