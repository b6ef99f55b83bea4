"""Garbage collection: settings become a run over a driver, for the command and for the housekeeper."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from moorage.gc.errors import CollectionRefused
from moorage.gc.options import CollectionOptions
from moorage.gc.run import LEASE, Collection, collect
from moorage.gc.unlinked import UnlinkedBytes
from moorage.registry.lease import read_holder
from moorage.storage.driver import StorageError
from moorage.wiring.cache import make_sizes
from moorage.wiring.collection_mark import StoredMark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from moorage.config.model import Settings
    from moorage.gc.report import Report
    from moorage.storage.driver import Driver
    from moorage.types import Digest

__all__ = ["collection_options", "log_fields", "process_name", "remove_unlinked", "run_collection"]


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
        dry_run=dry_run,
    )


def process_name() -> str:
    """Return the name of this process in the lease: an operator has to find it."""
    return f"{socket.gethostname()}, process {os.getpid()}"


async def run_collection(
    settings: Settings,
    driver: Driver,
    options: CollectionOptions,
    *,
    owner: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Run one collection, or continue one that was interrupted.

    Raises CollectionRefused, with the holder of the lease if there is one, and StorageError.
    """
    storage = settings.storage
    shown = progress or _no_progress
    sizes = make_sizes(settings)
    mark = StoredMark(settings, driver, options, shown)
    await mark.load()
    collection = Collection(
        driver=driver,
        options=options,
        marker=mark.marker,
        timeless=mark.timeless,
        owner=owner,
        sizes=sizes,
        holds=mark.is_held,
        foreign_writers=storage.maintenance.garbagecollection.foreignwriters,
        links_s=storage.cache.links,
        progress=shown,
    )
    try:
        report = await _collect_or_name_holder(collection)
        await mark.save()
    finally:
        await sizes.close()
    return report


async def remove_unlinked(
    settings: Settings,
    driver: Driver,
    digests: Iterable[Digest],
    *,
    owner: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Report, Mapping[Digest, str]]:
    """Remove the bytes of those digests that no repository links, however young, without the wait of a collection.

    Returns the report, and those that are linked, each with a repository.  Takes about 11 seconds, in which all
    requests observe the run.  Raises CollectionRefused, StorageError.
    """
    named = tuple(digests)
    sources: list[UnlinkedBytes] = []

    def marker(now: datetime) -> UnlinkedBytes:
        sources.append(UnlinkedBytes(driver, named, now))
        return sources[-1]

    sizes = make_sizes(settings)
    collection = Collection(
        driver=driver,
        options=collection_options(settings, wait_s=0),
        cleans=False,
        marker=marker,
        owner=owner,
        sizes=sizes,
        foreign_writers=settings.storage.maintenance.garbagecollection.foreignwriters,
        links_s=settings.storage.cache.links,
        progress=progress or _no_progress,
    )
    try:
        report = await _collect_or_name_holder(collection)
    finally:
        await sizes.close()
    return report, sources[-1].linked if sources else {}


async def _collect_or_name_holder(collection: Collection) -> Report:
    """Collect; a refusal names the holder of the lease if there is one."""
    try:
        return await collect(collection)
    except CollectionRefused as error:
        holder = None
        with suppress(StorageError):
            holder = await read_holder(collection.driver, LEASE)
        if holder is None or holder.owner == collection.owner:
            raise
        since = f"{holder.at:%Y-%m-%dT%H:%M:%SZ}"
        raise CollectionRefused(f"{error}: {holder.owner}, which extended the lease at {since}") from error


def _no_progress(phase: str, done: int, total: int) -> None:
    del phase, done, total


def log_fields(report: Report) -> dict[str, object]:
    """Return the fields of the log line of a run."""
    fields: dict[str, object] = {
        "outcome": report.outcome,
        "removed_blobs": report.freed.objects,
        "removed_bytes": report.freed.bytes,
        "removable_blobs": report.freeable.objects,
        "removable_bytes": report.freeable.bytes,
        "manifests": report.manifests,
        "layers": report.layers,
        "uploads": report.uploads,
        "kept": report.kept,
        "problems": report.problem_count,
    }
    return fields | ({"reason": report.reason} if report.reason else {})
