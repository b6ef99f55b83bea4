"""The start line: where the registry listens, with which certificate, for whom, and where it keeps its data.

Logged once per start, by the master; `docs/operations.md` lists the fields.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moorage.config.checks.exposure import authentication
from moorage.wiring.storage import azure_options, gcs_options, s3_options

if TYPE_CHECKING:
    from moorage.config.model import Settings
    from moorage.server.listeners import Sockets
    from moorage.server.processes.worker_config import Plan

__all__ = ["listening", "start_fields", "store_fields"]


def listening(plan: Plan, sockets: Sockets) -> str:
    """Return the text of the start line, which names the address."""
    scheme = "unix:" if sockets.unix else "https://" if plan.options.tls else "http://"
    return f"listening on {scheme}{sockets}"


def start_fields(plan: Plan) -> dict[str, str | int]:
    """Return the fields of the start line; none holds a secret."""
    settings, tls = plan.settings, plan.options.tls
    fields: dict[str, str | int] = {"configuration": plan.source, "workers": plan.workers}
    fields["tls"] = "off" if tls is None else tls.subject
    if tls is not None:
        fields["tls_expires"] = tls.until.isoformat()
    fields["authentication"] = authentication(settings)
    fields |= store_fields(settings)
    fields["cache"] = _cache(settings)
    if plan.limits.processors is not None:
        fields["cpu_limit"] = f"{plan.limits.processors:g}"
    if plan.limits.memory_bytes is not None:
        fields["memory_limit"] = f"{plan.limits.memory_bytes >> 20} MiB"
    fields["secret"] = "set" if settings.http.secret else "random"
    return fields


def store_fields(settings: Settings) -> dict[str, str]:
    """Return the driver, and the place of its data: path, or bucket, endpoint and prefix."""
    storage = settings.storage
    fields = {"storage": storage.driver}
    if storage.filesystem is not None:
        # As the driver makes it: symbolic links stay.
        fields["path"] = os.path.abspath(storage.filesystem.rootdirectory)  # noqa: PTH100
    elif storage.s3 is not None:
        s3 = s3_options(storage.s3)
        fields |= {"bucket": s3.bucket, "endpoint": s3.endpoint_url or f"Amazon {s3.region}", "prefix": s3.prefix}
    elif storage.gcs is not None:
        gcs = gcs_options(storage.gcs)
        endpoint = gcs.endpoint or os.environ.get("STORAGE_EMULATOR_HOST", "") or "Google"
        fields |= {"bucket": gcs.bucket, "endpoint": endpoint, "prefix": gcs.prefix}
    elif storage.azure is not None:
        azure = azure_options(storage.azure)
        fields |= {"container": azure.container, "endpoint": azure.url, "prefix": azure.prefix}
    if storage.maintenance.readonly.enabled:
        fields["readonly"] = "true"
    return fields


def _cache(settings: Settings) -> str:
    cache = settings.storage.cache.blobdescriptor
    if cache == "redis" and settings.redis is not None:
        return f"redis {', '.join(settings.redis.addrs)}"
    return cache or "none"
