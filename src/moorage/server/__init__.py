"""Process supervision: `run` binds the sockets, forks the workers and supervises them until a signal stops it.

    run ──► listeners.py                  sockets
            processes/worker_config.py    settings, TLS
            processes/master.py           signals, children, shutdown
              ├──► processes/rolling_restart.py
              ├──► processes/storage_monitor.py    data directory
              ├──► housekeeper/supervisor.py       background work
              └──► processes/worker_pool.py ──fork──► processes/worker.py ──► http1/
                                                        ├──► telemetry.py  metrics, traces, debug
                                                        └──► application.py    interface of what is served

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

from moorage.acme.order_spec import Timings
from moorage.config.checks.exposure import open_registry
from moorage.logs import log_setup
from moorage.logs.mail_hook import MailQueue
from moorage.server import preflight, telemetry
from moorage.server.announcement import listening, start_fields
from moorage.server.housekeeper.acme_job import prepare_acme
from moorage.server.housekeeper.supervisor import Housekeeper
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
    from moorage.config.problems import Problem
    from moorage.server.application import Service
    from moorage.server.housekeeper.jobs import Job
    from moorage.server.housekeeper.supervisor import JobSource
    from moorage.server.listeners import Sockets
    from moorage.server.processes.worker_config import Plan

__all__ = ["run"]

_log: Final = structlog.get_logger("moorage.server")


def run(loaded: Loaded, service: Service, timings: Timings | None = None) -> int:
    """Serve `service` until SIGTERM or SIGINT; return the exit status.

    0: stopped, and every request was answered (or `http.draintimeout` is 0).  1: the address or a certificate
    cannot be used, no worker could start, or requests were cut off.
    `timings` are the intervals of ACME; tests pass shorter ones.
    """
    mail = MailQueue()
    try:
        return _serve(loaded, service, timings or Timings(), mail)
    finally:
        # What the housekeeper has not read: the reason why it was not started, or the last lines of the master.
        if mail.receiver is not None and not mail.has_other_reader:
            _send_remaining(mail)
        mail.close()


def _serve(loaded: Loaded, service: Service, timings: Timings, mail: MailQueue) -> int:
    instance = str(uuid.uuid4())
    log_setup.configure(loaded.settings.log, instance=instance, processors=mail.processors(loaded.settings.log))
    _raise_file_limit()
    secret = loaded.settings.http.secret.encode() or secrets.token_bytes(32)
    warned = _refusals(loaded.settings, secret, service)
    if warned is None:
        return 1
    try:
        plan, warnings = draw(loaded, service.build, secret=secret, instance=instance)
        http = loaded.settings.http
        observation = telemetry.observe(loaded.settings, plan.workers)
        sockets = inherited(os.environ) or _bound(http.net, http.addr, plan.workers)
        acme = prepare_acme(plan, sockets, timings)
        monitor = None
        _prepare(loaded.settings, service)
        if service.stores:
            monitor = StorageMonitor(SharedReport(), mail)
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
    reload = partial(_reload, loaded, exposed, service, mail)
    sources: list[JobSource] = [partial(_jobs, service)]
    if acme is not None:
        sources.append(acme)
    housekeeper = Housekeeper(sources, mail, None if acme is None else acme.http)
    master = Master(
        plan, sockets, reload, _renew, partial(_announce, service), observation, housekeeper, monitor, mail
    )
    # No reference is kept here: the first reload frees the plan and its private key.
    del plan
    return master.run()


def _bound(net: str, addr: str, workers: int) -> Sockets:
    try:
        return bind(net, addr, workers)
    except StartupError as error:
        raise StartupError(str(error), "http.addr") from error


def _refusals(settings: Settings, secret: bytes, service: Service) -> set[str] | None:
    """Run the start checks and log their results; return the texts of the warnings, or None if there is an error.

    The checks import the libraries of the workers once, here: that is most of the time until the first response.
    """
    found = _problems(settings, secret, service, binding=not is_inherited(os.environ), data_directory=True)
    for problem in found:
        log = {"error": _log.critical, "fault": _log.error}.get(problem.kind, _log.warning)
        log(str(problem))
    if any(problem.kind == "error" for problem in found):
        return None
    return {str(problem) for problem in found}


def _problems(
    settings: Settings, secret: bytes, service: Service, *, binding: bool, data_directory: bool
) -> list[Problem]:
    found = preflight.problems(settings, binding=binding, data_directory=data_directory and service.stores)
    return found + service.check(settings, secret)


def _prepare(settings: Settings, service: Service) -> None:
    """Create missing files.  Raises `StartupError`."""
    for warning in service.prepare(settings):
        _log.warning(warning)


def _jobs(service: Service, plan: Plan) -> Sequence[Job]:
    return service.jobs(plan.settings, plan.instance)


def _send_remaining(mail: MailQueue) -> None:
    from moorage.logs.mail_sender import send_remaining  # noqa: PLC0415  smtplib: only where hooks are configured

    send_remaining(mail)


def _reload(
    first: Loaded,
    exposed: bool,  # noqa: FBT001  by `partial` only
    service: Service,
    mail: MailQueue,
    old: Plan,
) -> Plan:
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
    found = _problems(
        plan.settings,
        plan.secret,
        service,
        binding=False,
        # That in force is not checked: a reload may be what mends everything else.
        data_directory=plan.settings.storage.filesystem != old.settings.storage.filesystem,
    )
    if refused := [str(problem) for problem in found if problem.kind == "error"]:
        raise StartupError("; ".join(refused))
    _prepare(plan.settings, service)
    warnings += [str(problem) for problem in found if str(problem) not in warnings]
    log = plan.settings.log
    log_setup.configure(log, instance=plan.instance, processors=mail.processors(log))
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


def _announce(service: Service, plan: Plan, sockets: Sockets) -> None:
    _log.info(listening(plan, sockets), **start_fields(plan, service.describe(plan.settings)))


def _warn_of_secret(loaded: Loaded) -> None:
    """Warn of a random secret where it matters: not with built-in defaults, and not for data in memory."""
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
    """Raise the limit of open files to the hard limit: each connection and each upload is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
