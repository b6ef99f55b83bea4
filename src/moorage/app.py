"""The front door: the only module that builds things and joins rooms.

    settings ──► driver ──► StoredRegistry ──► ASGI application ◄── authority
                                │
                                └──► upload purger (one worker of the node runs it)

Read this to see the wiring.  `server/` calls `build` once in every worker process.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from moorage.auth.access import CannotAuthenticate
from moorage.caching import make_sizes
from moorage.caching import prepare as prepare_cache
from moorage.errors import RegistryError
from moorage.http.app import create_app
from moorage.http.options import HttpOptions
from moorage.redirects import make_rules
from moorage.registry.blobs import StoredBlobs
from moorage.registry.caches import Recent
from moorage.registry.manifests import StoredManifests, ValidationRules
from moorage.registry.purge import Purger
from moorage.registry.referrers import StoredReferrers
from moorage.registry.refusals import refusing
from moorage.registry.repositories import StoredRepositories
from moorage.registry.slices import AT_ONCE
from moorage.registry.tags import StoredTags
from moorage.registry.uploads import StoredUploads
from moorage.stores import make_driver
from moorage.stores import prepare as prepare_driver

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from moorage.auth.access import Authority
    from moorage.config.model import Settings
    from moorage.storage.driver import Driver
    from moorage.types import Digest

_RECENT_S: Final = 60.0

__all__ = ["App", "StoredRegistry", "build", "make_authority", "make_driver", "prepare"]


class StoredRegistry:
    """See `registry.interface.Registry`: the one that keeps everything in a driver."""

    def __init__(self, driver: Driver, settings: Settings, secret: bytes) -> None:
        storage = settings.storage
        deletable = storage.delete.enabled
        self._driver = driver
        self._sizes, self._rules = make_sizes(settings), make_rules(settings)
        recent: Recent[Digest] = Recent(_RECENT_S if driver.remote else 0)
        self.uploads = StoredUploads(driver, secret, recent=recent)
        self.manifests = StoredManifests(
            driver,
            delete_enabled=deletable,
            rules=_rules(settings),
            tags_at_once=storage.tag.concurrencylimit or AT_ONCE,
            recent=recent,
            sizes=self._sizes,
        )
        self.blobs = StoredBlobs(
            driver,
            delete_enabled=deletable,
            sizes=self._sizes,
            redirects=not storage.redirect.disable,
            rules=self._rules,
        )
        self.tags = StoredTags(driver)
        self.referrers = StoredReferrers(driver, self.manifests)
        self.repositories = StoredRepositories(driver)

    async def probe(self) -> None:
        with refusing():
            await self._driver.probe()

    async def close(self) -> None:
        self.uploads.close()
        for rule in self._rules:
            await rule.close()
        await self._sizes.close()
        await self._driver.close()


@dataclass(slots=True)
class App:
    """What a worker process runs."""

    asgi: ASGIApp
    registry: StoredRegistry
    purger: Purger | None
    authority: Authority | None = None
    looks: bool = False
    """Whether this worker looks at the storage when it starts."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Start what runs beside the requests."""
        if self.looks:
            self._tasks.append(asyncio.create_task(self._look(), name="first look at the storage"))
        if self.purger is not None:
            self._tasks.append(asyncio.create_task(self.purger.run(), name="upload purger"))

    async def _look(self) -> None:
        """A bucket that cannot be used is told of now, not at the first push; `refusing` has logged the cause."""
        with suppress(RegistryError):
            await self.registry.probe()

    async def probe(self) -> None:
        """Look at the storage; raises a refusal if it is not as it should be."""
        await self.registry.probe()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self.authority is not None:
            await self.authority.close()
        await self.registry.close()


def build(settings: Settings, secret: bytes, *, worker: int) -> App:
    """Everything one worker needs; `worker` counts from 0, and only the first of a node purges uploads."""
    driver = make_driver(settings)
    registry = StoredRegistry(driver, settings, secret)
    authority = make_authority(settings, secret)
    asgi = create_app(registry, http_options(settings), authority)
    purger = _purger(driver, settings, worker)
    return App(asgi, registry, purger, authority, looks=driver.remote and worker == 0)


def prepare(settings: Settings, secret: bytes) -> list[str]:
    """What is looked at once, before any worker starts: warnings for the log.

    Raises `CannotAuthenticate`, `CannotStore`.
    """
    prepare_driver(settings)
    prepare_cache(settings)
    make_rules(settings)
    make_authority(settings, secret)
    return []


def make_authority(settings: Settings, secret: bytes) -> Authority | None:
    """The one way of authentication that the `auth` section names, None if there is none.

    Raises `CannotAuthenticate` where it cannot work.
    """
    del secret
    if settings.auth.provider != "none":
        raise CannotAuthenticate(f"auth.{settings.auth.provider} is not offered")
    return None


def http_options(settings: Settings) -> HttpOptions:
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
    )


def _purger(driver: Driver, settings: Settings, worker: int) -> Purger | None:
    purging = settings.storage.maintenance.uploadpurging
    if worker != 0 or not purging.enabled or settings.storage.maintenance.readonly.enabled:
        return None
    return Purger(driver, age_s=purging.age, interval_s=purging.interval, dry_run=purging.dryrun)


def _rules(settings: Settings) -> ValidationRules:
    validation = settings.validation
    classes = frozenset(settings.policy.repository.classes)
    if validation.disabled and not validation.enabled:
        return ValidationRules(classes=classes)
    urls, indexes = validation.manifests.urls, validation.manifests.indexes
    platforms = {
        "all": None,
        "none": frozenset[tuple[str, str]](),
        "list": frozenset((item.os, item.architecture) for item in indexes.platformlist),
    }[indexes.platforms]
    return ValidationRules(
        allow_urls=tuple(re.compile(text) for text in urls.allow),
        deny_urls=tuple(re.compile(text) for text in urls.deny),
        platforms=platforms,
        classes=classes,
    )
