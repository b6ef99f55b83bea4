"""The start line: the address, the certificate, the limits, and the fields that the application adds.

Logged once per start, by the master; `docs/operations.md` lists the fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.server.listeners import Sockets
    from moorage.server.processes.worker_config import Plan

__all__ = ["listening", "start_fields"]


def listening(plan: Plan, sockets: Sockets) -> str:
    """Return the text of the start line, which names the address."""
    scheme = "unix:" if sockets.unix else "https://" if plan.options.tls else "http://"
    return f"listening on {scheme}{sockets}"


def start_fields(plan: Plan, described: Mapping[str, str]) -> dict[str, str | int]:
    """Return the fields of the start line, those of `described` included; none holds a secret."""
    settings, tls = plan.settings, plan.options.tls
    fields: dict[str, str | int] = {"configuration": plan.source, "workers": plan.workers}
    fields["tls"] = "off" if tls is None else tls.subject
    if tls is not None:
        fields["tls_expires"] = tls.until.isoformat()
    fields |= described
    if plan.limits.processors is not None:
        fields["cpu_limit"] = f"{plan.limits.processors:g}"
    if plan.limits.memory_bytes is not None:
        fields["memory_limit"] = f"{plan.limits.memory_bytes >> 20} MiB"
    fields["secret"] = "set" if settings.http.secret else "random"
    return fields
