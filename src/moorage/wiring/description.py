"""Fields of the start line that describe the registry: authentication, storage and cache.

`docs/operations.md` lists them.  None holds a secret.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from moorage.config.checks.exposure import authentication
from moorage.wiring.storage import azure_options, gcs_options, s3_options

if TYPE_CHECKING:
    from moorage.config.model import Settings

__all__ = ["describe", "store_fields"]


def describe(settings: Settings) -> dict[str, str]:
    """Return the fields, in the order of the line."""
    return {
        "authentication": authentication(settings),
        **store_fields(settings),
        "cache": _cache(settings),
    }


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
