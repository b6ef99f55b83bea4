"""The registry as a service: the server runs it, `moorage config check` checks it.

    moorage serve ──► run ──► server.run(Service) ──fork──► build_worker ──► app.build, health checks, middleware

`server/` imports nothing of this package; it calls the functions of the `Service`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage import server
from moorage.health_checks import HealthChecks, checks_of
from moorage.server import preflight
from moorage.server.application import Service, WorkerContext, WorkerParameters
from moorage.wiring.app import Resources, build, check
from moorage.wiring.authentication import make_password_file
from moorage.wiring.description import describe
from moorage.wiring.housekeeping import jobs
from moorage.wiring.http import build_stack

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from moorage.acme.order_spec import Timings
    from moorage.config.load import Loaded
    from moorage.config.model import Settings
    from moorage.config.problems import Problem
    from moorage.http.middleware import ASGIApp
    from moorage.metrics.recorder import Reading

    class Inner(Protocol):
        """An application without health checks and middleware: `app.App`.  `probe` checks the storage."""

        @property
        def asgi(self) -> ASGIApp: ...
        async def start(self) -> None: ...
        async def close(self) -> None: ...
        async def probe(self) -> None: ...
        def readings(self) -> Iterable[Reading]: ...


__all__ = ["WorkerApplication", "build_worker", "problems", "run"]


def run(loaded: Loaded, timings: Timings | None = None) -> int:
    """Serve the registry until SIGTERM or SIGINT; see `moorage.server.run`."""
    service = Service(
        build_worker, check=check, prepare=make_password_file, describe=describe, jobs=jobs, stores=True
    )
    return server.run(loaded, service, timings)


def problems(settings: Settings, *, data_directory: bool = True) -> list[Problem]:
    """Return every problem that `moorage serve` would report before its start; changes nothing.

    `data_directory` False leaves out the checks of the data directory.
    """
    secret = settings.http.secret.encode() or bytes(32)
    found = [*preflight.problems(settings, data_directory=data_directory), *check(settings, secret)]
    return [*found, *preflight.warning_of_an_open_registry(settings)]


def build_worker(parameters: WorkerParameters, context: WorkerContext) -> WorkerApplication:
    """Return the application of a worker, in its process.  Raises `StartupError`."""
    settings = parameters.settings
    app = build(
        settings,
        parameters.secret,
        worker=parameters.number,
        watches=context.watches,
        resources=Resources(parameters.processors, parameters.cache_bytes),
    )
    return WorkerApplication(app, settings, context)


class WorkerApplication:
    """See `server.application.Application`: `app` with the configured health checks and middleware."""

    def __init__(self, app: Inner, settings: Settings, context: WorkerContext) -> None:
        self._app = app
        checks = checks_of(settings.health, storage=settings.storage.driver, probe=app.probe)
        self.health = HealthChecks(checks) if context.storage is None else HealthChecks(checks, context.storage)
        self.asgi = build_stack(app.asgi, self.health, context.traffic, settings, context.observer)

    async def start(self) -> None:
        await self._app.start()
        await self.health.start()

    async def close(self) -> None:
        await self.health.close()
        await self._app.close()

    def readings(self) -> Iterable[Reading]:
        return self._app.readings()
