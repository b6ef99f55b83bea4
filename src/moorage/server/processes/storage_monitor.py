"""Storage monitor: one process per node that detects when the data directory can no longer be read or written.

    master ──fork──► monitor: check ─► wait ─► check ...
                        │ logs each change of state, once per node
                        └─► storage_report.py ─► every worker: /readyz, metrics, 503 while unreadable

    unreadable   no permission, no directory, disappeared: every request is refused, since a 404 would report
                 to clients that their images do not exist
    unwritable   full, read-only, no permission: pulls are served, the driver refuses each push with its cause
    writable     everything is served

A process of its own, because a disk or network file system that hangs would stop the master or the event loop of
a worker.  It only reports: each push is tried all the same, and succeeds as soon as the storage takes it.

Directories only.  In a bucket each check would cost a request and an object, and credentials that may only read
are a common way to run a mirror: there the first push is refused and logged with the store's own error.

Above: `master.py`.  Below: `moorage.storage.filesystem.data_directory`.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

import structlog

from moorage.health_checks import StorageReport, StorageSpace
from moorage.logs.mail_hook import MailQueue
from moorage.server.processes.helper_process import HelperProcess, run_helper
from moorage.server.processes.storage_report import STALE_AFTER_S
from moorage.startup import StartupError
from moorage.storage.filesystem.data_directory import check_readable, check_writable, create, identify

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.model import Settings
    from moorage.config.sections.log import Log
    from moorage.server.processes.storage_report import SharedReport
    from moorage.server.processes.worker_config import Plan
    from moorage.storage.filesystem.data_directory import Identity

__all__ = [
    "MonitoredDirectory",
    "StorageMonitor",
    "check",
    "check_at_start",
    "monitored",
    "require_readable",
    "watch",
]

_READ_EVERY_S: Final = 10.0
_AFTER_FAILURE_S: Final = 5.0
_MUST: Final = "; the operator must "
_PERMISSION: Final = "the registry has no permission; the operator must correct owner and mode"
_REASONS: Final = {
    errno.ENOSPC: "the disk is full; the operator must free or add space",
    errno.EDQUOT: "the disk quota is used up; the operator must raise it or free space",
    errno.EROFS: "the file system is read-only; the operator must mount it read-write, or name the directory in "
    "ReadWritePaths= of the systemd unit",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENOENT: "the data directory has disappeared; the operator must mount or restore it",
    errno.ENOTDIR: "the data directory is not a directory; the operator must put one in its place",
    errno.EEXIST: "the data directory is not a directory; the operator must put one in its place",
}
_OTHERWISE: Final = "the disk or its file system fails; the operator must check the system's log"

_log: Final = structlog.get_logger("moorage.storage")


@dataclass(frozen=True, slots=True)
class MonitoredDirectory:
    """The directory to check: `write` is off in read-only mode; `interval_s` is the time between two writes."""

    root: str
    write: bool
    interval_s: float


def monitored(settings: Settings) -> MonitoredDirectory | None:
    """Return what to check; None unless the storage is a directory."""
    storage, probe = settings.storage, settings.health.writeprobe
    if storage.filesystem is None:
        return None
    write = not (probe.disabled or storage.maintenance.readonly.enabled)
    return MonitoredDirectory(str(Path(storage.filesystem.rootdirectory).absolute()), write, probe.interval)


def check(target: MonitoredDirectory, before: StorageReport, *, write: bool = True) -> StorageReport:
    """Check once, and measure the space.  With `write=False` the last result of the write check is kept.

    A directory that never existed is created by the write check; one that has disappeared is not: usually its
    volume is no longer mounted, and the mount point must not be filled instead (see `data_directory`).
    """
    found = _check(target, before, write=write)
    return replace(found, space=_space(target.root) if found.readable else None)


def _space(root: str) -> StorageSpace | None:
    """Return the space of the file system of `root`, also a full one.  None if `root` is missing or fails."""
    try:
        found = os.statvfs(root)
    except OSError:  # the next check of the directory reports the cause
        return None
    return StorageSpace(
        size_bytes=found.f_blocks * found.f_frsize,
        free_bytes=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        free_inodes=found.f_favail,
    )


def _check(target: MonitoredDirectory, before: StorageReport, *, write: bool) -> StorageReport:
    seen, identity = before.seen, before.identity
    try:
        identity = check_readable(target.root, identity)
        seen = True
    except FileNotFoundError as error:
        if seen or os.path.islink(target.root):  # noqa: PTH114  a link that leads nowhere
            return _failed(target, error, readable=False, seen=seen, identity=identity)
    except OSError as error:
        return _failed(target, error, readable=False, seen=seen, identity=identity)
    if not target.write:
        return StorageReport(seen=seen, identity=identity)
    if not write and before.readable and before.writable is not None:
        return replace(before, seen=seen, identity=identity)
    try:
        if not seen:
            create(target.root)
            seen, identity = True, identify(target.root, None)
        check_writable(target.root)
    except OSError as error:
        return _failed(target, error, readable=True, seen=seen, identity=identity)
    return StorageReport(writable=True, seen=True, identity=identity)


def _failed(
    target: MonitoredDirectory, error: OSError, *, readable: bool, seen: bool, identity: Identity | None
) -> StorageReport:
    number = error.errno or 0
    code = errno.errorcode.get(number, str(number))
    path = target.root if error.filename is None else str(error.filename).removesuffix("/.")
    user = f", as user {os.geteuid()}" if number in {errno.EACCES, errno.EPERM} else ""
    return StorageReport(
        readable=readable,
        writable=False if target.write else None,
        code=code,
        reason=_REASONS.get(number, _OTHERWISE),
        cause=f"{path}: {error.strerror} ({code}{user})",
        seen=seen,
        identity=identity,
    )


def check_at_start(settings: Settings, report: SharedReport) -> None:
    """Log an unwritable directory before requests are served.  Raises `StartupError` for an unreadable one."""
    target = monitored(settings)
    if target is None:
        return
    found = check(target, StorageReport())
    _require(found)
    _log_change(StorageReport(), found, target.root)
    report.write(found)


def require_readable(settings: Settings) -> None:
    """Raise `StartupError` if the data directory exists and cannot be read; a missing one is made by a push."""
    target = monitored(settings)
    if target is not None:
        _require(check(replace(target, write=False), StorageReport()))


def _require(found: StorageReport) -> None:
    if not found.readable:
        raise StartupError(f"storage.filesystem.rootdirectory cannot be used: {found.cause}: {found.reason}")


def _log_change(before: StorageReport, now: StorageReport, root: str) -> None:
    """Write one line for each change of state or cause."""
    if (before.readable, before.degraded, before.code) == (now.readable, now.degraded, now.code):
        return
    facts = {"data": root, "cause": now.cause, "remedy": now.reason.partition(_MUST)[2]}
    if not now.readable:
        _log.error("the data directory cannot be read: every request is refused", **facts)
    elif now.degraded:
        _log.error("the data directory cannot be written to: pushes are refused, pulls are served", **facts)
    elif now.writable or before.readable:
        _log.info("the data directory can be read and written again", data=root)
    else:
        _log.info("the data directory can be read again", data=root)


def watch(
    target: MonitoredDirectory, report: SharedReport, pause: Callable[[float], None] = time.sleep
) -> NoReturn:
    """Check until the process is killed; `pause` waits for a number of seconds."""
    written_at = -target.interval_s
    now = 0.0
    while True:
        report.beat()
        before = report.read()
        failing = before.degraded or not before.readable
        write = failing or now - written_at >= target.interval_s
        found = check(target, before, write=write)
        report.beat()
        if write:
            written_at = now
        if (found, found.identity, found.space) != (before, before.identity, before.space):
            report.write(found)
        _log_change(before, found, target.root)
        wait_s = min(target.interval_s, _READ_EVERY_S)
        if found.degraded or not found.readable:
            wait_s = min(target.interval_s / 10, _AFTER_FAILURE_S)
        pause(wait_s)
        now += wait_s


@dataclass(frozen=True, slots=True)
class MonitorParameters:
    """Everything the process is made from."""

    target: MonitoredDirectory
    log: Log
    instance: str


class StorageMonitor(HelperProcess[MonitorParameters]):
    """The master's side: starts the process, and replaces one that dies, hangs or has other settings."""

    name: ClassVar[str] = "storage monitor"

    def __init__(self, report: SharedReport, mail: MailQueue | None = None) -> None:
        super().__init__()
        self.report = report
        self._mail = mail or MailQueue()
        self._silent = False

    def parameters(self, plan: Plan) -> MonitorParameters | None:
        target = monitored(plan.settings)
        return None if target is None else MonitorParameters(target, plan.settings.log, plan.instance)

    def main(self, parameters: MonitorParameters) -> Callable[[], NoReturn]:
        master, report, processors = os.getpid(), self.report, self._mail.processors(parameters.log)

        def become() -> NoReturn:
            run_helper(
                self.name, lambda: watch(parameters.target, report),
                log=parameters.log, instance=parameters.instance, master=master, processors=processors,
            )  # fmt: skip

        return become

    def due(self) -> list[float]:
        times = super().due()
        if self.pid is not None and not self._replacing:
            times.append(self._last_heartbeat() + STALE_AFTER_S)
        return times

    def _last_heartbeat(self) -> float:
        return max(self.started, self.report.last_heartbeat)

    def check(self, now: float) -> None:
        """Replace a process that hangs.  Logs once until one responds again, however many hang."""
        if self._silent and self.report.last_heartbeat > self.started:
            self._silent = False
            _log.info("the storage monitor responds again")
        if now < self._last_heartbeat() + STALE_AFTER_S:
            return
        if not self._silent:
            self._silent = True
            _log.error(
                "the storage monitor does not respond: the state of the data directory is unknown",
                seconds=STALE_AFTER_S, remedy="check whether the disk or its file system hangs",
            )  # fmt: skip
        self._replacing = True
        self.send_kill()

    def reset(self) -> None:
        self.report.write(StorageReport())
