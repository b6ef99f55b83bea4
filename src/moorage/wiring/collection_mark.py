"""The mark of a garbage collection: settings become legal holds, a cache in a file, and a `Marker`."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from moorage.gc.cache import MarkCache
from moorage.gc.mark import Marker
from moorage.wiring.cache_directory import cache_file
from moorage.wiring.protection import make_holds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from moorage.config.model import Settings
    from moorage.gc.options import CollectionOptions
    from moorage.storage.driver import Driver
    from moorage.types import RepoName

__all__ = ["StoredMark"]


class StoredMark:
    """Makes the `Marker` of a run; its cache is in a file from `load` to `save`."""

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        options: CollectionOptions,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._driver = driver
        self._options = options
        self._progress = progress
        entries = settings.retention.holds
        self._holds = make_holds(settings)
        self._path = cache_file(settings, "collection", os.environ)
        # What was judged by other options is judged again.
        self._key = json.dumps(
            [
                options.delete_untagged,
                options.grace_s,
                options.undo_s,
                [hold.model_dump(mode="json") for hold in entries],
            ]
        )
        self._cache: MarkCache | None = None

    async def load(self) -> None:
        """Read the cache of an earlier run."""
        if self._path is not None:
            self._cache = await asyncio.to_thread(MarkCache.load, self._path, self._path.name, self._key)

    async def save(self) -> None:
        """Write the cache for the next run."""
        if self._path is not None and self._cache is not None:
            await asyncio.to_thread(self._cache.save, self._path)

    def marker(self, now: datetime) -> Marker:
        """Return the source of marks for ages relative to `now`."""
        return Marker(
            self._driver,
            self._options,
            now=now,
            cache=self._cache,
            holds=self.is_held,
            progress=lambda done, total: self._progress("marking", done, total),
        )

    def timeless(self, now: datetime) -> Marker:
        """Return the source of marks without times of grace and undo; the cache of the others stays as it is."""
        return Marker(
            self._driver,
            replace(self._options, grace_s=0, undo_s=0),
            now=now,
            cache=None if self._cache is None else self._cache.without_judgements(),
            holds=self.is_held,
            progress=lambda done, total: self._progress("marking without grace and undo", done, total),
        )

    def is_held(self, name: RepoName) -> bool:
        """Return whether a hold names the repository.  One of single tags keeps the whole repository."""
        return bool(self._holds.of(name))
