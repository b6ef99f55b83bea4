"""Observability of a worker: metrics, spans, and in worker 0 the debug listener.

    every worker   Recorder, Spans ─► around the requests and the storage
                   each second: its metrics and failing checks to the board
    worker 0       the debug listener: health and metrics of all workers, from the board

Not created, and its libraries not imported, unless `http.debug.addr` or OTEL_TRACES_EXPORTER is set.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from moorage.http.debug_app import DebugPages
from moorage.http.middleware import RequestLog, Traffic
from moorage.server.http1 import Http1Options, Server
from moorage.server.listeners import bind, is_loopback
from moorage.server.processes.protocol import HEARTBEAT_LIMIT_S
from moorage.startup import StartupError
from moorage.tracing.environment import exporters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from moorage.config.model import Settings
    from moorage.health_checks import HealthChecks
    from moorage.http.middleware import ASGIApp, Observer
    from moorage.metrics.board import Board
    from moorage.metrics.recorder import Reading, Recorder
    from moorage.server.listeners import Sockets
    from moorage.server.processes.protocol import WorkerStartup
    from moorage.server.tls.provider import Certificates
    from moorage.storage.instrumented import Watch
    from moorage.tracing.setup import Tracing

__all__ = ["Observation", "Observing", "observe"]

_METRICS_PATH: Final = "/metrics"
"""Default for an empty `http.debug.prometheus.path`, as in CNCF Distribution."""

_INTERVAL_S: Final = 1.0
_FLUSH_LIMIT_S: Final = 3.0
_OPTIONS: Final = Http1Options(connections=64)
_log: Final = structlog.get_logger("moorage.server")


@dataclass(frozen=True, slots=True)
class Observation:
    """Created once by the master for all workers; kept by a reload."""

    sockets: Sockets
    board: Board


def observe(settings: Settings, workers: int) -> Observation | None:
    """Bind the debug listener, if there is to be one.  Raises `StartupError`."""
    addr = settings.http.debug.addr
    if not addr:
        return None
    from moorage.metrics.board import Board  # noqa: PLC0415  only with a debug listener

    try:
        sockets = bind("tcp", addr, 1)
    except StartupError as error:
        raise StartupError(str(error), "http.debug.addr") from error
    _log.info(f"debug listener on http://{sockets}")
    if not is_loopback(sockets):
        _log.warning(
            "the debug listener has no authentication, and other machines may reach it; "
            "bind http.debug.addr to 127.0.0.1, or restrict access by a firewall",
            addr=str(sockets),
        )
    return Observation(sockets, Board(workers))


class Observing:
    """Observability of one worker."""

    def __init__(self, job: WorkerStartup) -> None:
        self._job = job
        self._recorder: Recorder | None = None
        self._tracing: Tracing | None = None
        self._health: HealthChecks | None = None
        self._readings: Callable[[], Iterable[Reading]] = tuple
        self._task: asyncio.Task[None] | None = None
        self._server: Server | None = None
        self._certificates: Certificates | None = None
        self._traffic = Traffic()
        if job.board is not None and job.settings.http.debug.prometheus.enabled:
            from moorage.metrics.recorder import Recorder  # noqa: PLC0415  only with a debug listener

            self._recorder = Recorder()
        if exporters(os.environ):
            from moorage.tracing.setup import start  # noqa: PLC0415  likewise

            self._tracing = start(os.environ, f"{job.instance}/{job.number}")

    @property
    def observer(self) -> Observer | None:
        return self._recorder

    def watches(self) -> Sequence[Watch]:
        """Return the observers of storage actions."""
        watches: list[Watch] = []
        if self._recorder is not None:
            from moorage.metrics.storage import StorageTimes  # noqa: PLC0415  likewise

            watches.append(StorageTimes(self._recorder))
        if self._tracing is not None:
            watches.append(self._tracing.spans.storage)
        return watches

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return `app` inside the middleware of tracing."""
        return app if self._tracing is None else self._tracing.spans.around(app)

    def start(
        self,
        health: HealthChecks,
        traffic: Traffic,
        readings: Callable[[], Iterable[Reading]],
        certificates: Certificates | None,
    ) -> None:
        """Start publishing metrics; `readings` returns those of the application."""
        self._certificates = certificates
        job = self._job
        self._health = health
        self._readings = readings
        if job.board is None:
            return
        self._publish()
        self._task = asyncio.create_task(self._keep_publishing(), name="metrics")
        if job.debug is not None:
            self._server = Server(self._pages(job.board, traffic), _OPTIONS)
            self._server.listen(job.debug)
            job.debug.close()

    def _certificate(self) -> list[Reading]:
        """Return when the certificate for new connections expires."""
        until = None if self._certificates is None else self._certificates.until
        if until is None or self._recorder is None:
            return []
        return [("moorage_tls_certificate_expiry_timestamp_seconds", (), until.timestamp())]

    def _storage(self) -> list[Reading]:
        """Return the state and the space of the data directory, as the storage monitor last reported them."""
        assert self._health is not None
        report = self._health.storage()
        found: list[Reading] = []
        if report.writable is not None:
            found.append(("moorage_storage_writable", (), int(report.writable)))
        if report.space is not None:
            found.append(("moorage_storage_size_bytes", (), report.space.size_bytes))
            found.append(("moorage_storage_free_bytes", (), report.space.free_bytes))
            if report.space.inodes:
                found.append(("moorage_storage_inodes", (), report.space.inodes))
                found.append(("moorage_storage_free_inodes", (), report.space.free_inodes))
        return found

    def retire(self) -> None:
        """Stop accepting after a newer worker has taken over; each response closes its connection."""
        if self._server is not None:
            self._server.stop_accepting()
            self._server.draining = True
            asyncio.get_running_loop().call_later(_INTERVAL_S, self._server.stop)

    async def close(self) -> None:
        """Publish the last metrics and spans."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._publish()
        if self._tracing is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_LIMIT_S):
                    await asyncio.to_thread(self._tracing.close)

    async def _keep_publishing(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                due = loop.time() + _INTERVAL_S
                await asyncio.sleep(_INTERVAL_S)
                if self._recorder is not None:
                    self._recorder.observe(("moorage_event_loop_lag_seconds",), max(0.0, loop.time() - due))
                self._publish()
        except Exception:  # noqa: BLE001  a defect here must not stop the worker
            _log.exception("the metrics of this worker are no longer updated")

    def _publish(self) -> None:
        from moorage.metrics.recorder import Snapshot  # noqa: PLC0415  only with a debug listener

        assert self._job.board is not None
        assert self._health is not None
        snapshot = Snapshot(os.getpid()) if self._recorder is None else self._recorder.snapshot(self._readings())
        snapshot.failing = self._health.failures()
        snapshot.published = time.monotonic()
        self._job.board.publish(self._job.place, snapshot)

    def _pages(self, board: Board, traffic: Traffic) -> ASGIApp:
        def failing() -> dict[str, str]:
            self._publish()
            _, living = board.read()
            return {check: reason for each in reversed(living) for check, reason in each.failing.items()}

        def degraded() -> str:
            assert self._health is not None
            report = self._health.storage()
            return f"{report.cause}: {report.reason}" if report.degraded else ""

        async def metrics(accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
            from moorage.metrics.exposition import page  # noqa: PLC0415  only in the worker that renders the page

            self._publish()
            own = [*self._certificate(), *self._storage()]
            return await asyncio.to_thread(
                page, board, self._job.master, own, accept, accept_encoding, unresponsive_after_s=HEARTBEAT_LIMIT_S
            )

        prometheus = self._job.settings.http.debug.prometheus
        page = metrics if prometheus.enabled else None
        pages = DebugPages(failing, traffic, prometheus.path or _METRICS_PATH, page, degraded)
        return RequestLog(pages, self._traffic, None)
