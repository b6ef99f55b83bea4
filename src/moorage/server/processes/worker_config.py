"""Plan: the settings and everything derived from them that all workers share."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.server.application import WorkerParameters
from moorage.server.cgroups import Limits, limits, usable_processors
from moorage.server.http1 import Http1Options
from moorage.server.options import Challenges, ServerOptions
from moorage.server.tls import validation
from moorage.server.tls.file_watch import FileWatcher
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moorage.config.load import Loaded
    from moorage.config.model import Settings
    from moorage.server.application import Application, Build, WorkerContext

__all__ = ["Plan", "draw", "redraw", "renew", "worker_count"]

_WORKERS_LIMIT: Final = 8
_CONNECTIONS_LIMIT: Final = 16384
_CACHES_SHARE: Final = 1 / 4
"""Part of the memory limit that the caches of all workers may take."""
_MIB: Final = 1 << 20
_MASTER_BYTES: Final = 50 * _MIB
_WORKER_BYTES: Final = 30 * _MIB
"""Memory of a worker without caches and requests; docs/sizing.md."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`secret` signs the state of uploads; `source` describes the origin of the settings in messages.

    `watched` are the files that `options.tls` was read from.  `awaiting`: `http.tls.letsencrypt` has not obtained
    them yet, and until then no request is served.  `bound` are the addresses of the start, by
    setting: a reload changes none.  `limits` are those of the control group.
    """

    settings: Settings
    source: str
    secret: bytes
    instance: str
    workers: int
    options: ServerOptions
    build: Build
    watched: FileWatcher = field(default_factory=lambda: FileWatcher((), 0.0))
    awaiting: bool = False
    bound: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def cache_bytes(self) -> int | None:
        """Return the cache limit of one worker; None without a memory limit."""
        memory = self.limits.memory_bytes
        return None if memory is None else int(memory * _CACHES_SHARE) // self.workers

    def builder(self, number: int) -> Callable[[WorkerContext], Application]:
        processors = usable_processors(self.limits)
        parameters = WorkerParameters(number, self.settings, self.secret, processors, self.cache_bytes)
        return partial(self.build, parameters)


def draw(loaded: Loaded, build: Build, *, secret: bytes, instance: str) -> tuple[Plan, list[str]]:
    """Return the plan, and warnings for the log.  Raises `StartupError`."""
    settings = loaded.settings
    found = limits()
    workers, warnings = worker_count(settings, found)
    warnings += _little_memory(workers, found)
    watched = FileWatcher(validation.files(settings.http.tls), time.monotonic())
    awaiting = False
    try:
        secured, notes = validation.check(settings.http.tls)
    except validation.Awaited as error:
        secured, awaiting = None, True
        notes = [f"asking for another certificate: {error}"] if Path(watched.paths[0]).exists() else []
    http = settings.http
    limits_of_http = Http1Options(
        header_timeout_s=http.headertimeout,
        idle_timeout_s=http.idletimeout,
        handshake_timeout_s=http.tls.handshaketimeout,
        body_timeout_s=http.bodytimeout,
        send_timeout_s=http.sendtimeout,
        least_rate=http.leastrate,
        header_limit_bytes=http.headerlimit,
        connections=_connections(),
    )
    acme = http.tls.letsencrypt
    challenges = Challenges(str(Path(acme.cachefile).absolute()), acme.names) if acme.cachefile else None
    options = ServerOptions(limits_of_http, secured, awaiting, challenges)
    bound = {"http.addr": http.addr, "http.net": http.net, "http.debug.addr": http.debug.addr}
    plan = Plan(
        settings, loaded.source, secret, instance, workers, options, build, watched, awaiting, bound, found
    )  # fmt: skip
    return plan, warnings + notes


def redraw(old: Plan, loaded: Loaded) -> tuple[Plan, list[str]]:
    """Return the plan of a reload: sockets and the number of workers stay.  Raises `StartupError`."""
    secret = loaded.settings.http.secret.encode() or old.secret
    plan, warnings = draw(loaded, old.build, secret=secret, instance=old.instance)
    before, after = old.settings.http, plan.settings.http
    if bool(before.tls.letsencrypt.cachefile) != bool(after.tls.letsencrypt.cachefile):
        raise StartupError("http.tls.letsencrypt was switched on or off: restart the registry to apply it")
    if before.tls.letsencrypt.http01 != after.tls.letsencrypt.http01:
        warnings.append("http.tls.letsencrypt.http01 has changed: restart the registry to apply it")
    if plan.awaiting and not old.awaiting:
        warnings.append("the old certificate is served until there is one for the new http.tls.letsencrypt.hosts")
        plan = replace(plan, awaiting=False, options=replace(plan.options, tls=old.options.tls, awaiting=False))
    warnings += [
        f"{name} has changed: restart the registry to apply it"
        for name, addr in plan.bound.items()
        if addr != old.bound[name]
    ]
    if plan.workers != old.workers:
        what = "the limit of processors" if before.workers == after.workers else "http.workers"
        warnings.append(f"{what} has changed: restart the registry to apply it")
    return replace(plan, workers=old.workers, bound=old.bound), warnings


def renew(old: Plan) -> tuple[Plan, list[str]]:
    """Return the plan with the current certificates; `old` itself if they are the same.

    Raises `StartupError`.  The settings are those in force: a configuration that is being edited waits for SIGHUP.
    """
    secured, warnings = validation.check(old.settings.http.tls)
    if secured == old.options.tls:
        return old, warnings
    return replace(old, options=replace(old.options, tls=secured, awaiting=False), awaiting=False), warnings


def worker_count(settings: Settings, found: Limits) -> tuple[int, list[str]]:
    """Return the number of workers, and warnings.

    By default one per core that affinity and the quota of the control group allow, at most 8.
    """
    configured = settings.http.workers
    if settings.storage.driver == "inmemory":
        # Memory is not shared: an image pushed to one worker would be unknown to the others.
        warning = "http.workers has no effect: storage.inmemory is served by one worker"
        return 1, [warning] if configured is not None and configured > 1 else []
    return configured or min(_WORKERS_LIMIT, usable_processors(found)), []


def _little_memory(workers: int, found: Limits) -> list[str]:
    """Return a warning about a memory limit that normal operation would reach."""
    needed = math.ceil((_MASTER_BYTES + workers * _WORKER_BYTES) / (1 - _CACHES_SHARE) / _MIB)
    if found.memory_bytes is None or found.memory_bytes >= needed * _MIB:
        return []
    count = "1 worker" if workers == 1 else f"{workers} workers"
    text = f"the memory limit of {found.memory_bytes // _MIB} MiB is low for {count}: allow {needed} MiB"
    return [text if workers == 1 else f"{text}, or set http.workers"]


def _connections() -> int:
    """Return the limit of connections per worker.

    A third of the descriptors, since a download has its file and two sockets; 256, or half of a low limit, are
    left for everything else.  A worker out of descriptors refuses requests.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return _CONNECTIONS_LIMIT
    return max(1, min(_CONNECTIONS_LIMIT, (hard - min(256, hard // 2)) // 3))
