"""The front door: the only module that builds things and joins rooms.

    settings ──► driver ──► StoredRegistry ──► ASGI application ◄── authority
                                │
                                └──► upload purger (one worker of the node runs it)

Read this to see the wiring.  `server/` calls `build` once in every worker process.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from moorage.concurrency import AT_ONCE
from moorage.config.problems import Problem
from moorage.errors import RegistryError
from moorage.http.app import create_app
from moorage.http.clients import Clients
from moorage.http.options import HttpOptions
from moorage.registry.manifests import ValidationRules
from moorage.registry.purge import Purger
from moorage.registry.stored import StoredOptions, StoredRegistry
from moorage.startup import StartupError
from moorage.storage.driver import RequestCost
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.instrumented import InstrumentedDriver
from moorage.wiring.cache import make_sizes
from moorage.wiring.cache import prepare as prepare_cache
from moorage.wiring.redirects import make_rules
from moorage.wiring.storage import make_driver
from moorage.wiring.storage import prepare as prepare_driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from starlette.types import ASGIApp

    from moorage.auth.access import Authority
    from moorage.auth.rate_limit import LoginRateLimit
    from moorage.config.model import Settings
    from moorage.http.token import TokenEndpoint
    from moorage.metrics.recorder import Reading
    from moorage.storage.driver import Driver
    from moorage.storage.instrumented import Watch

_REFRESH_S: Final = 1.0
_log: Final = structlog.get_logger("moorage.auth")

__all__ = [
    "App",
    "Resources",
    "build",
    "check",
    "make_authority",
    "make_driver",
    "make_registry",
    "make_slowing",
    "prepare",
    "token_endpoint",
]


@dataclass(frozen=True, slots=True)
class Resources:
    """What one process may use: processors of all processes, bytes for its caches (None: as much as they hold)."""

    processors: int = 1
    cache_bytes: int | None = None


@dataclass(slots=True)
class App:
    """What a worker process runs."""

    asgi: ASGIApp
    registry: StoredRegistry
    purger: Purger | None
    authority: Authority | None = None
    driver: Driver | None = None
    looks: bool = False
    """Whether this worker looks at the storage when it starts."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Start what runs beside the requests."""
        if self.looks:
            self._tasks.append(asyncio.create_task(self._look(), name="first look at the storage"))
        if self.authority is not None:
            self._tasks.append(asyncio.create_task(_refresh(self.authority), name="files of the authority"))
        if self.purger is not None:
            self._tasks.append(asyncio.create_task(self.purger.run(), name="upload purger"))

    async def _look(self) -> None:
        """A bucket that cannot be used is told of now, not at the first push; `refusing` has logged the cause."""
        with suppress(RegistryError):
            await self.registry.probe()

    async def probe(self) -> None:
        """Look at the storage; raises a refusal if it is not as it should be."""
        await self.registry.probe()

    def readings(self) -> Iterator[Reading]:
        """Numbers that are counted whether anybody asks or not; `metrics/table.py` has their names."""
        for name, requests, hits in self.registry.cache_counts():
            yield "moorage_cache_requests_total", (name,), requests
            yield "moorage_cache_hits_total", (name,), hits
        if isinstance(self.driver, FilesystemDriver):
            yield "moorage_storage_threads", (), self.driver.pool.threads
            yield "moorage_storage_queue_length", (), self.driver.pool.waiting

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self.authority is not None:
            await self.authority.close()
        await self.registry.close()


async def _refresh(authority: Authority) -> None:
    """Notice changed files without waiting for a request, so that a broken edit is reported at once."""
    try:
        while True:
            await asyncio.sleep(_REFRESH_S)
            await authority.refresh()
    except Exception:  # noqa: BLE001  a bug of ours: requests still read the files
        _log.exception("files of the authority are no longer checked between requests")


def build(
    settings: Settings,
    secret: bytes,
    *,
    worker: int,
    watches: Sequence[Watch] = (),
    resources: Resources | None = None,
) -> App:
    """Everything one worker needs; `worker` counts from 0, and only the first of a node purges uploads.

    `watches` are told of every action of the storage.
    """
    bare = driver = make_driver(settings, processors=resources.processors if resources else 1)
    for watch in watches:
        driver = InstrumentedDriver(driver, watch)
    registry = make_registry(driver, settings, secret, resources)
    authority = make_authority(settings, secret, reports=worker == 0)
    asgi = create_app(registry, http_options(settings), authority, token_endpoint(settings, authority))
    purger = _purger(driver, settings, worker)
    return App(
        asgi, registry, purger, authority, bare, looks=bare.request_cost is RequestCost.NETWORK and worker == 0
    )


def make_registry(
    driver: Driver, settings: Settings, secret: bytes, resources: Resources | None = None
) -> StoredRegistry:
    """Return the stored registry over `driver`.  Raises StartupError."""
    resources = resources or Resources()
    storage = settings.storage
    options = StoredOptions(
        delete_enabled=storage.delete.enabled,
        redirects=not storage.redirect.disable,
        links_s=storage.cache.links,
        tags_at_once=storage.tag.concurrencylimit or AT_ONCE,
        validation=_rules(settings),
        processors=resources.processors,
        cache_bytes=resources.cache_bytes,
    )
    return StoredRegistry(driver, secret, options, sizes=make_sizes(settings), rules=make_rules(settings))


def prepare(settings: Settings) -> list[str]:
    """Make what is missing and made at start, once, before any worker starts: warnings for the log.

    Raises `StartupError`.
    """
    if settings.auth.htpasswd is None:
        return []
    from moorage.auth.htpasswd_write import provide  # noqa: PLC0415  only where it is configured

    return provide(Path(settings.auth.htpasswd.path))


def check(settings: Settings, secret: bytes) -> list[Problem]:
    """Everything that would keep a worker from starting, or is odd; nothing is changed.

    Imports what workers need, so that they share it.
    """
    problems: list[Problem] = []
    for part in (_check_driver, _check_cache, _check_redirects, _check_authority):
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


def _check_authority(settings: Settings, secret: bytes) -> list[Problem]:
    problems: list[Problem] = []
    if settings.auth.htpasswd is not None and not os.path.lexists(settings.auth.htpasswd.path):
        from moorage.auth.htpasswd_write import check_provision  # noqa: PLC0415  only where it is configured

        warning = check_provision(Path(settings.auth.htpasswd.path))
        return [Problem(warning, "auth.htpasswd.path", kind="warning")]
    try:
        _authority(settings, secret, problems, reports=True)
    except StartupError as error:
        if all(problem.kind != "error" for problem in problems):
            problems.append(Problem(error.reason, error.setting))
    return problems


def make_authority(settings: Settings, secret: bytes, *, reports: bool = True) -> Authority | None:
    """The one way of authentication that the `auth` section names, None if there is none.

    `reports`: whether this process logs what every worker of the node finds in changed files.  Raises
    `StartupError` where it cannot work.
    """
    return _authority(settings, secret, None, reports=reports)


def _authority(
    settings: Settings, secret: bytes, problems: list[Problem] | None, *, reports: bool
) -> Authority | None:
    """`problems` is given by the one process that checks; what is odd or wrong is appended to it."""
    provider = settings.auth.provider
    if provider == "none":
        return None
    if provider not in _WAYS:
        raise StartupError(f"auth.{provider} is not offered")
    return _WAYS[provider](settings, secret, problems, reports=reports)


class _Way(Protocol):
    def __call__(
        self, settings: Settings, secret: bytes, problems: list[Problem] | None, /, *, reports: bool
    ) -> Authority: ...


# What proves identities is imported when it is asked for: a registry without it starts sooner and is smaller.


def _silly(settings: Settings, _: bytes, problems: list[Problem] | None, *, reports: bool) -> Authority:
    del reports  # it reads no file
    from moorage.auth.silly import WARNING, SillyAuthority  # noqa: PLC0415  as above

    silly = settings.auth.silly
    assert silly is not None
    if problems is not None:
        problems.append(Problem(WARNING, kind="warning"))
    return SillyAuthority(silly.realm, silly.service)


def _htpasswd(settings: Settings, _: bytes, problems: list[Problem] | None, *, reports: bool) -> Authority:
    from moorage.auth.basic import HtpasswdAuthority  # noqa: PLC0415  as above
    from moorage.auth.password_file import PasswordFile  # noqa: PLC0415

    htpasswd = settings.auth.htpasswd
    assert htpasswd is not None
    path = Path(htpasswd.path)
    users = PasswordFile(path, reports=reports)
    if problems is not None:
        problems += (Problem(text, kind="warning") for text in users.warnings)
        if path.is_dir():
            message = (
                f"{path} is a directory, so no user can log in; create a file with `moorage htpasswd -Bc "
                f"{path / 'htpasswd'} USER` and name it here"
            )
            problems.append(Problem(message, "auth.htpasswd.path", kind="fault"))
    return HtpasswdAuthority(htpasswd.realm, users, make_slowing(settings))


def _token(settings: Settings, _: bytes, problems: list[Problem] | None, *, reports: bool) -> Authority:
    from moorage.auth.token.build import TokenOptions, make  # noqa: PLC0415  as above

    token = settings.auth.token
    assert token is not None
    authority = make(
        TokenOptions(
            realm=token.realm,
            service=token.service,
            issuer=token.issuer,
            rootcertbundle=token.rootcertbundle,
            jwks=token.jwks,
            redirect_path=token.autoredirectpath if token.autoredirect else None,
            algorithms=token.signingalgorithms,
        ),
        reports=reports,
    )
    if problems is not None:
        problems += (Problem(text, kind="warning") for text in authority.warnings)
    return authority


def _local(settings: Settings, secret: bytes, problems: list[Problem] | None, *, reports: bool) -> Authority:
    from moorage.auth.local.authority import Place  # noqa: PLC0415  as above
    from moorage.auth.local.build import LocalOptions, make, problems_of  # noqa: PLC0415

    local, http = settings.auth.local, settings.http
    assert local is not None
    options = LocalOptions(
        policy=local.policy,
        users=local.users,
        place=Place(local.service, local.realm, http.host, http_options(settings).prefix),
        token_s=local.tokenlifetime,
        login_s=local.loginlifetime,
        rotation_s=local.keyrotation,
    )
    if problems is not None:
        problems += problems_of(local.policy, local.users)
        if not http.secret:
            message = "auth.local without http.secret: tokens and logins end at a restart; set http.secret"
            problems.append(Problem(message, kind="warning"))
    return make(options, secret, make_slowing(settings), reports=reports)


_WAYS: Final[Mapping[str, _Way]] = {
    "silly": _silly,
    "htpasswd": _htpasswd,
    "token": _token,
    "local": _local,
}
"""By the name of the provider; see `_authority`."""


def make_slowing(settings: Settings) -> LoginRateLimit:
    """What slows down the guessing of passwords, for whoever takes them."""
    from moorage.auth.rate_limit import LoginRateLimit  # noqa: PLC0415  as above

    guessing = settings.guessing
    return LoginRateLimit(limit=guessing.failures, window_s=guessing.window, longest_s=guessing.longestwait)


def token_endpoint(settings: Settings, authority: Authority | None) -> TokenEndpoint | None:
    """What answers at `/token`, where tokens are ours to give out."""
    if settings.auth.local is None or authority is None:
        return None
    from moorage.auth.local.authority import LocalAuthority  # noqa: PLC0415  only where it is configured
    from moorage.http.token import TokenEndpoint  # noqa: PLC0415

    assert isinstance(authority, LocalAuthority)
    return TokenEndpoint(authority, settings.http.bodytimeout, Clients(settings.http.trustedproxies))


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
        classes_matter=bool(settings.policy.repository.classes),
        clients=Clients(http.trustedproxies),
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
