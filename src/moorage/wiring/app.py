"""The application of one process, built from settings.

    settings ──► driver ──► StoredRegistry ──► (quotas) ──► (mirror) ──► ASGI application ◄── authority

Above: `serving.py`, which adds health checks and middleware and runs the server.  Below: one module per part.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from moorage.concurrency import DEFAULT_LIMIT
from moorage.config.problems import Problem
from moorage.http.app import create_app
from moorage.quota.registry import LimitedRegistry
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.startup import StartupError
from moorage.storage.instrumented import InstrumentedDriver
from moorage.wiring.authentication import check_authority, make_authority
from moorage.wiring.cache import make_sizes
from moorage.wiring.cache import prepare as prepare_cache
from moorage.wiring.http import http_options, instance_of, token_endpoint
from moorage.wiring.protection import make_protection
from moorage.wiring.proxy import check as check_mirror
from moorage.wiring.proxy import is_mirror, make_mirror
from moorage.wiring.purging import make_purger
from moorage.wiring.quota import make_usage
from moorage.wiring.redirects import make_rules
from moorage.wiring.retention import make_pulls
from moorage.wiring.storage import open_store
from moorage.wiring.storage import prepare as prepare_driver
from moorage.wiring.sync_check import check_sync_files
from moorage.wiring.validation import validation_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from starlette.types import ASGIApp

    from moorage.auth.access import Authority
    from moorage.config.model import Settings
    from moorage.metrics.recorder import Reading
    from moorage.proxy.registry import MirrorRegistry
    from moorage.quota.usage import Usage
    from moorage.registry.interface import Registry
    from moorage.registry.purge import Purger
    from moorage.storage.driver import Driver
    from moorage.storage.instrumented import Watch

_REFRESH_S: Final = 1.0
_log: Final = structlog.get_logger("moorage.auth")

__all__ = ["App", "Resources", "build", "check", "make_registry"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one process.  `processors` are those of all processes; `cache_bytes` None is no limit."""

    processors: int = 1
    cache_bytes: int | None = None


@dataclass(slots=True)
class App:
    """The application of one process."""

    asgi: ASGIApp
    registry: StoredRegistry
    purger: Purger | None
    authority: Authority | None = None
    store_readings: Callable[[], Iterable[Reading]] = tuple
    usage: Usage | None = None
    mirror: MirrorRegistry | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Start the tasks that run beside the requests."""
        if self.authority is not None:
            self._tasks.append(asyncio.create_task(_refresh(self.authority), name="files of the authority"))
        if self.registry.pulls is not None:
            self._tasks.append(asyncio.create_task(self.registry.pulls.run(), name="times of pulls"))
        if self.mirror is not None:
            self._tasks.append(asyncio.create_task(self.mirror.run(), name="spool of the mirror"))
        if self.purger is not None:
            self._tasks.append(asyncio.create_task(self.purger.run(), name="upload purger"))

    async def probe(self) -> None:
        """Check the storage.  Raises the `RegistryError` that a client would get."""
        await self.registry.probe()

    def readings(self) -> Iterator[Reading]:
        """Return the current values of the metrics that are not counted per request (`metrics/table.py`)."""
        for name, requests, hits in self.registry.cache_counts():
            yield "moorage_cache_requests_total", (name,), requests
            yield "moorage_cache_hits_total", (name,), hits
        if self.registry.history is not None:
            yield "moorage_tag_history_dropped_total", (), self.registry.history.dropped
        if self.mirror is not None:
            yield from self.mirror.counts.readings()
        yield from self.store_readings()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self.authority is not None:
            await self.authority.close()
        if self.usage is not None:
            await self.usage.close()
        await (self.registry if self.mirror is None else self.mirror).close()


async def _refresh(authority: Authority) -> None:
    """Read changed files between requests, so that a broken edit is reported at once."""
    try:
        while True:
            await asyncio.sleep(_REFRESH_S)
            await authority.refresh()
    except Exception:  # noqa: BLE001  a defect: requests still read the files
        _log.exception("files of the authority are no longer checked between requests")


def build(
    settings: Settings,
    secret: bytes,
    *,
    worker: int,
    watches: Sequence[Watch] = (),
    resources: Resources | None = None,
) -> App:
    """Return the application of one process.  Raises `StartupError`.

    `worker` counts from 0; only worker 0 logs problems of files.  `watches` observe every call
    of the driver.
    """
    store = open_store(settings, processors=resources.processors if resources else 1)
    driver = store.driver
    for watch in watches:
        driver = InstrumentedDriver(driver, watch)
    registry = make_registry(driver, settings, secret, resources)
    authority = make_authority(settings, secret, reports=worker == 0)
    usage = make_usage(driver, settings)
    # Without quotas requests go to the stored registry directly.
    served: Registry = registry if usage is None else LimitedRegistry(registry, driver, usage)
    via = instance_of(secret)
    mirror = make_mirror(served, registry.mirrored, settings, via=via) if is_mirror(settings) else None
    options = http_options(settings, via=via)
    asgi = create_app(mirror or served, options, authority, token_endpoint(settings, authority))
    # The data of `storage.inmemory` is in this process alone; all others are purged by the housekeeper.
    purger = make_purger(driver, settings) if settings.storage.driver == "inmemory" else None
    return App(asgi, registry, purger, authority, store.readings, usage, mirror)


def make_registry(
    driver: Driver, settings: Settings, secret: bytes, resources: Resources | None = None
) -> StoredRegistry:
    """Return the stored registry over `driver`.  Raises StartupError."""
    resources = resources or Resources()
    storage = settings.storage
    options = StoredOptions(
        delete_enabled=storage.delete.enabled,
        undo_s=storage.delete.undo,
        redirects=not storage.redirect.disable,
        links_s=storage.cache.links,
        tags_at_once=storage.tag.concurrencylimit or DEFAULT_LIMIT,
        validation=validation_rules(settings),
        processors=resources.processors,
        cache_bytes=resources.cache_bytes,
        protection=make_protection(settings),
    )
    return StoredRegistry(
        driver,
        secret,
        options,
        sizes=make_sizes(settings),
        rules=make_rules(settings),
        pulls=make_pulls(driver, settings),
    )


def check(settings: Settings, secret: bytes) -> list[Problem]:
    """Return every problem that keeps a worker from starting, and warnings; changes nothing.

    Imports the libraries that the workers share.
    """
    problems: list[Problem] = []
    for part in (_check_driver, _check_cache, _check_redirects, _check_mirror, _check_sync, check_authority):
        try:
            problems += part(settings, secret)
        except StartupError as error:
            problems.append(Problem(error.reason, error.setting))
    return problems


def _check_driver(settings: Settings, _: bytes) -> list[Problem]:
    prepare_driver(settings)
    return []


def _check_cache(settings: Settings, _: bytes) -> list[Problem]:
    prepare_cache(settings)
    return []


def _check_redirects(settings: Settings, _: bytes) -> list[Problem]:
    make_rules(settings)
    return []


def _check_mirror(settings: Settings, _: bytes) -> list[Problem]:
    return check_mirror(settings)


def _check_sync(settings: Settings, _: bytes) -> list[Problem]:
    return check_sync_files(settings)
