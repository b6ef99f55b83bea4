"""Checks of `storage.maintenance.garbagecollection`.

Above: `dependencies.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.config.problems import Problem
from moorage.config.scalars import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.model import Settings

__all__ = ["check_garbage_collection"]

_KEY: Final = "storage.maintenance.garbagecollection"
_SHORT_GRACE_S: Final = 3600.0
"""Pushes that take longer exist: images of many gigabytes over slow lines."""
_SHORT_WAIT_S: Final = 60.0


def check_garbage_collection(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of `storage.maintenance.garbagecollection`.

    Short times lose nothing: a push then fails with an error that asks the client to push again.
    """
    storage = settings.storage
    collection = storage.maintenance.garbagecollection
    if collection.enabled and storage.driver == "inmemory":
        message = "storage.inmemory is not collected: it is lost when its process ends; remove this setting"
        yield Problem(message, f"{_KEY}.enabled")
    if collection.enabled and storage.maintenance.readonly.enabled:
        message = "has no effect while storage.maintenance.readonly is enabled"
        yield Problem(message, f"{_KEY}.enabled", kind="warning")
    if collection.enabled and collection.foreignwriters:
        message = (
            "runs only report what they would remove; set it to false when no other registry writes to this store"
        )
        yield Problem(message, f"{_KEY}.foreignwriters", kind="warning")
    if collection.grace < _SHORT_GRACE_S:
        message = (
            f"pushes that take longer than {format_duration(collection.grace)} may have to be repeated; "
            "at least 1h is recommended"
        )
        yield Problem(message, f"{_KEY}.grace", kind="warning")
    if collection.wait < _SHORT_WAIT_S:
        message = (
            f"clients have only {format_duration(collection.wait)} between finding a blob and referring to it; "
            "slower pushes may have to be repeated; at least 1m is recommended"
        )
        yield Problem(message, f"{_KEY}.wait", kind="warning")
