"""Process supervision: `run` binds the sockets, forks the workers and supervises them until a signal stops it.

    run ──► listeners.py                  sockets
            processes/worker_config.py    settings, TLS
            processes/master.py           signals, children, shutdown
              ├──► processes/rolling_restart.py
              ├──► processes/storage_monitor.py    data directory
              ├──► housekeeper/supervisor.py       certificates by ACME
              └──► processes/worker_pool.py ──fork──► processes/worker.py ──► http1/
                                                        ├──► telemetry.py  metrics, traces, debug
                                                        └──► moorage.wiring.app.build

docs/operations.md is the description for operators.
"""

from __future__ import annotations

import gc
import os
import resource
import secrets
import uuid
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from moorage.acme.order_spec import Pace
from moorage.cgroups import usable_processors
from moorage.config.checks.exposure import open_registry
from moorage.logs import log_setup
from moorage.server import preflight, telemetry
from moorage.server.announcement import listening, start_fields
from moorage.server.housekeeper.supervisor import engage
from moorage.server.listeners import bind, inherited, is_inherited, is_loopback
from moorage.server.processes.master import Master
from moorage.server.processes.storage_monitor import StorageMonitor, check_at_start
from moorage.server.processes.storage_report import SharedReport
from moorage.server.processes.worker_config import draw, redraw, renew
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.config.load import Loaded
    from moorage.config.model import Settings
    from moorage.server.listeners import Sockets
    from moorage.server.processes.protocol import Application
    from moorage.server.processes.worker_config import Build, Plan
    from moorage.storage.instrumented import Watch

__all__ = ["run"]

_log: Final = structlog.get_logger("moorage.server")


def run(loaded: Loaded, build: Build | None = None, pace: Pace | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status.

    0: stopped, and every request was answered (or `http.draintimeout` is 0).  1: the address or a certificate
    cannot be used, no worker could start, or requests were cut off.
    `build` makes the application of one worker, by default with `moorage.wiring.app.build`; tests pass their
    own, and shorter intervals for ACME (`pace`).
    """
    instance = str(uuid.uuid4())
    log_setup.configure(loaded.settings.log, instance=instance)
    _raise_file_limit()
    secret = loaded.settings.http.secret.encode() or secrets.token_bytes(32)
    application = build is None
    warned = _refusals(loaded.settings, secret, application=application)
    if warned is None:
        return 1
    try:
        plan, warnings = draw(loaded, build or _application, secret=secret, instance=instance)
        http = loaded.settings.http
        observation = telemetry.observe(loaded.settings, plan.workers)
        sockets = inherited(os.environ) or _bound(http.net, http.addr, plan.workers)
        companion = engage(plan, sockets, pace or Pace())
        monitor = None
        if application:
            _prepare(loaded.settings)
            monitor = StorageMonitor(SharedReport())
            check_at_start(loaded.settings, monitor.report)
    except StartupError as error:
        _log.critical(str(error))
        return 1
    for warning in warnings:
        if warning not in warned:
            _log.warning(warning)
    exposed = not is_loopback(sockets)
    if exposed and (opened := open_registry(loaded.settings, str(sockets))):
        _log.warning(opened)
    _warn_of_secret(loaded)
    # Objects that exist by now stay shared with the workers, since the collector does not write to them.
    gc.freeze()
    gc.enable()
    reload = partial(_reload, loaded, exposed)
    master = Master(plan, sockets, reload, _renew, _announce, observation, companion, monitor)
    # No reference is kept here: the first reload frees the plan and its private key.
    del plan
    return master.run()


def _bound(net: str, addr: str, workers: int) -> Sockets:
    try:
        return bind(net, addr, workers)
    except StartupError as error:
        raise StartupError(str(error), "http.addr") from error


def _refusals(settings: Settings, secret: bytes, *, application: bool) -> set[str] | None:
    """Log what the start checks find: the texts of the warnings, or None if nothing may start.

    Imports what the workers need, once here instead of once in every worker: that is most of the time until the
    first answer.  Tests of the server go without the registry.
    """
    binding = not is_inherited(os.environ)
    found = preflight.problems(settings, secret, application=application, binding=binding)
    for problem in found:
        log = {"error": _log.critical, "fault": _log.error}.get(problem.kind, _log.warning)
        log(str(problem))
    if any(problem.kind == "error" for problem in found):
        return None
    return {str(problem) for problem in found}


def _prepare(settings: Settings) -> None:
    """Raises `StartupError`."""
    from moorage.wiring.app import prepare  # noqa: PLC0415  as above

    for warning in prepare(settings):
        _log.warning(warning)


def _application(plan: Plan, number: int, watches: Sequence[Watch]) -> Application:
    from moorage.wiring.app import Resources, build  # noqa: PLC0415  as above

    resources = Resources(usable_processors(plan.limits), plan.cache_bytes)
    return build(plan.settings, plan.secret, worker=number, watches=watches, resources=resources)


def _reload(first: Loaded, exposed: bool, old: Plan) -> Plan:  # noqa: FBT001  by `partial` only
    """Read the configuration again.  `exposed`: other machines reach the address.  Raises `StartupError`."""
    from moorage.config.load import load  # noqa: PLC0415  as above
    from moorage.config.problems import ConfigError  # noqa: PLC0415

    try:
        loaded = load(first.path, os.environ, defaults=first.path is None)
    except ConfigError as error:
        # The error first: a warning in front would look like the cause.
        ordered = sorted(error.problems, key=lambda problem: problem.kind != "error")
        raise StartupError("; ".join(str(problem) for problem in ordered)) from error
    plan, warnings = redraw(old, loaded)
    application = plan.build is _application
    found = preflight.problems(
        plan.settings,
        plan.secret,
        application=application,
        binding=False,
        # That in force is not checked: a reload may be what mends everything else.
        data_directory=plan.settings.storage.filesystem != old.settings.storage.filesystem,
    )
    if refused := [str(problem) for problem in found if problem.kind == "error"]:
        raise StartupError("; ".join(refused))
    if application:
        _prepare(plan.settings)
    warnings += [str(problem) for problem in found if str(problem) not in warnings]
    log_setup.configure(plan.settings.log, instance=plan.instance)
    opened = open_registry(plan.settings, "the registry") if exposed else None
    if opened and open_registry(old.settings, "") is None:
        warnings.append(opened)
    for warning in [*(str(problem) for problem in loaded.warnings), *warnings]:
        _log.warning(warning)
    return plan


def _renew(old: Plan) -> Plan:
    """Read the certificates again.  Raises `StartupError`."""
    plan, warnings = renew(old)
    for warning in warnings:
        _log.warning(warning)
    return plan


def _announce(plan: Plan, sockets: Sockets) -> None:
    _log.info(listening(plan, sockets), **start_fields(plan))


def _warn_of_secret(loaded: Loaded) -> None:
    """Only where it can matter: a registry on the built-in defaults is alone, and in memory nothing lasts."""
    settings = loaded.settings
    if settings.http.secret or loaded.path is None or settings.storage.driver == "inmemory":
        return
    if settings.storage.maintenance.readonly.enabled:
        return
    _log.warning(
        "No HTTP secret provided - generated random secret. This may cause problems with uploads if multiple "
        "registries are behind a load-balancer, and ends unfinished uploads at a restart. To provide a "
        "shared secret, fill in http.secret in the configuration file or set the REGISTRY_HTTP_SECRET environment "
        "variable."
    )


def _raise_file_limit() -> None:
    """As many open files as we may have: each connection is one, and each upload."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
