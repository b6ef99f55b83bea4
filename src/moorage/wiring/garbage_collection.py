"""Garbage collection: settings become the options, driver and cache of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.gc.options import CollectionOptions

if TYPE_CHECKING:
    from moorage.config.model import Settings

__all__ = ["CollectionRefused", "collection_options"]


class CollectionRefused(Exception):
    """Nothing was removed, and a later run may: the reason is a sentence for an operator."""


def collection_options(
    settings: Settings,
    *,
    delete_untagged: bool | None = None,
    grace_s: float | None = None,
    wait_s: float | None = None,
    dry_run: bool = False,
) -> CollectionOptions:
    """Return the options of a run; None is the value of the settings."""
    storage = settings.storage
    collection = storage.maintenance.garbagecollection
    return CollectionOptions(
        delete_untagged=collection.deleteuntagged if delete_untagged is None else delete_untagged,
        grace_s=collection.grace if grace_s is None else grace_s,
        undo_s=storage.delete.undo,
        wait_s=collection.wait if wait_s is None else wait_s,
        upload_age_s=storage.maintenance.uploadpurging.age,
        dry_run=dry_run or collection.foreignwriters,
    )
