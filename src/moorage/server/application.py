"""Interface between the server and the application that it serves.

`moorage.wiring.serving` implements it for the registry; tests of the server pass applications of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from moorage.config.model import Settings
    from moorage.config.problems import Problem
    from moorage.health_checks import HealthChecks, StorageReport
    from moorage.http.middleware import ASGIApp, Observer, Traffic
    from moorage.metrics.recorder import Reading
    from moorage.server.housekeeper.jobs import Job
    from moorage.storage.instrumented import Watch

__all__ = ["Application", "Build", "Service", "WorkerContext", "WorkerParameters"]


class Application(Protocol):
    """The application of one worker.  `readings` returns its own metrics, `health` has its checks."""

    @property
    def asgi(self) -> ASGIApp: ...
    @property
    def health(self) -> HealthChecks: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def readings(self) -> Iterable[Reading]: ...


@dataclass(frozen=True, slots=True)
class WorkerParameters:
    """The configured part of a worker.

    `number` counts from 0.  `secret` signs the state of uploads; all workers share it.  `processors` are those of
    all workers; `cache_bytes` limits the caches of this one, None: no limit.
    """

    number: int
    settings: Settings
    secret: bytes
    processors: int = 1
    cache_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """The server's part of a worker, for the application that is built in it.

    `traffic` counts its requests, `observer` measures them, `watches` observe storage calls.  `storage` returns
    the last report of the storage monitor; None without one.
    """

    traffic: Traffic
    observer: Observer | None = None
    watches: Sequence[Watch] = ()
    storage: Callable[[], StorageReport] | None = None


Build = Callable[[WorkerParameters, WorkerContext], Application]
"""Builds the application of a worker, in its process."""


def _no_problems(_: Settings, __: bytes) -> list[Problem]:
    return []


def _nothing_to_prepare(_: Settings) -> list[str]:
    return []


def _no_fields(_: Settings) -> dict[str, str]:
    return {}


def _no_jobs(_: Settings, __: str) -> Sequence[Job]:
    return ()


@dataclass(frozen=True, slots=True)
class Service:
    """An application as the server needs it.

    `check` returns every problem that keeps workers from starting, and warnings; it changes nothing.  `prepare`
    creates missing files, once, before any worker starts, and returns warnings; it raises `StartupError`.
    `jobs` returns the background work that the settings need; its second argument names this start of the server.
    `describe` returns fields for the start line, without secrets.  `stores`: the application keeps data in
    `storage`, so the data directory is checked and monitored.
    """

    build: Build
    check: Callable[[Settings, bytes], list[Problem]] = _no_problems
    prepare: Callable[[Settings], list[str]] = _nothing_to_prepare
    describe: Callable[[Settings], dict[str, str]] = _no_fields
    jobs: Callable[[Settings, str], Sequence[Job]] = _no_jobs
    stores: bool = False
