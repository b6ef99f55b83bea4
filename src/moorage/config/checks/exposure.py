"""Exposure of a registry: reachability of its address, and authentication."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from moorage.config.addresses import host_and_port

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.config.sections.http import Http

__all__ = ["authentication", "beyond_loopback", "open_registry"]


def beyond_loopback(http: Http) -> bool:
    """Return whether other hosts can reach `http.addr`; False if it is malformed or inherited."""
    if http.net == "unix" or not http.addr:
        return False
    try:
        host, _ = host_and_port(http.addr)
    except ValueError:
        return False  # reported by `dependencies.py`
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host.lower() != "localhost"


def authentication(settings: Settings) -> str:
    """Return the methods of authentication: the provider, client certificates, both, or "none"."""
    tls = settings.http.tls
    kinds = [settings.auth.provider] if settings.auth.provider != "none" else []
    if tls.clientcas and tls.clientauth in {"", "require-and-verify-client-cert"}:
        kinds.append("client certificates")
    return " and ".join(kinds) or "none"


def open_registry(settings: Settings, address: str) -> str | None:
    """Return the warning for a registry without authentication at `address`, None with authentication.

    The caller decides whether other hosts can reach the address.
    """
    if authentication(settings) != "none":
        return None
    storage = settings.storage
    if storage.maintenance.readonly.enabled:
        may = "pull everything"
    elif storage.delete.enabled:
        may = "pull, overwrite and delete everything"
    else:
        may = "pull and overwrite everything"
    return (
        f"no authentication: every client that reaches {address} may {may}; set auth (htpasswd, token or local), "
        "or listen on 127.0.0.1 only"
    )
