"""Health checks: while one fails, the registry refuses every request.

Each worker runs every check by itself, one interval after it started and then every interval.  A check fails the
registry after `threshold` failures in a row (0 and 1: the first), until the first success.  The first
failure and the recovery are logged, with the reason.

Beside these, one process of the node checks the data directory (`server/processes/storage_monitor.py`) and logs
what changes. Each worker reads its `StorageReport`: unreadable is a failure like any other, unwritable degrades
the registry, which then refuses pushes and serves pulls.

Above: `http/health_gate.py`, which answers 503 meanwhile.  Source: docs/reference/configuration.md, section 12.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from moorage.config.addresses import host_and_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.config.sections.rules import Health as HealthSettings
    from moorage.config.sections.rules import HttpCheck, TcpCheck

__all__ = ["STORAGE", "Check", "Failed", "HealthChecks", "StorageReport", "StorageSpace", "checks_of"]

STORAGE: Final = "storage"
"""Name of the storage monitor's result among the failing checks."""

_LIMIT_S: Final = 30.0
"""For checks without a `timeout`: one that hangs for ever would never fail."""

_log: Final = structlog.get_logger("moorage.health")


class Failed(Exception):
    """The check failed; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Check:
    """A configured check.  `run` raises `Failed`; another exception is a failure as well and logged in full."""

    name: str
    run: Callable[[], Awaitable[None]]
    interval_s: float = 10.0
    threshold: int = 0


@dataclass(frozen=True, slots=True)
class StorageSpace:
    """Space of the file system that holds the data directory, as statvfs(3) reports it.

    `free_bytes` and `free_inodes` are those of an unprivileged process; quotas are not in them.  `inodes` is 0
    where their number is not fixed (Btrfs).
    """

    size_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class StorageReport:
    """Result of the last check of the data directory.

    `writable` is None where that is not checked.  `reason` names the cause and the remedy without a path, for
    clients; `cause` is the system's own error, for operators.  `code` is the name of the errno.  `seen`: the
    directory existed at some time, so its absence is a failure.  `identity`: its device and inode then
    (`storage/filesystem/data_directory.py`).  `space` is None where the directory cannot be read or does not
    exist.
    """

    readable: bool = True
    writable: bool | None = None
    code: str = ""
    reason: str = ""
    cause: str = ""
    seen: bool = False
    identity: tuple[int, int] | None = field(default=None, compare=False)
    space: StorageSpace | None = field(default=None, compare=False)

    @property
    def degraded(self) -> bool:
        return self.readable and self.writable is False


_UNKNOWN: Final = StorageReport()


class HealthChecks:
    """The checks of one worker; `failing` holds those that fail, with the reason.

    `storage` returns the newest report of the storage monitor.
    """

    def __init__(self, checks: Sequence[Check], storage: Callable[[], StorageReport] = lambda: _UNKNOWN) -> None:
        """Raises ValueError for two checks of one name."""
        names = [check.name for check in checks]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"health: checked more than once: {', '.join(twice)}")
        self.failing: dict[str, str] = {}
        self.storage = storage
        self._checks = tuple(checks)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def refusing(self) -> bool:
        """Return whether every request is refused."""
        return bool(self.failing) or not self.storage().readable

    def failures(self) -> dict[str, str]:
        """Return what fails with the reason, for operators: the checks, and `storage` while it is unreadable."""
        report = self.storage()
        return self.failing | ({} if report.readable else {STORAGE: report.cause})

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._watch(check), name=check.name) for check in self._checks]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def _watch(self, check: Check) -> None:
        failures = 0
        while True:
            await asyncio.sleep(check.interval_s)
            reason = await _outcome(check)
            failures = 0 if reason is None else failures + 1
            if reason is None:
                if self.failing.pop(check.name, None) is not None:
                    _log.info("health check passes again", check=check.name)
            elif failures >= check.threshold:
                if check.name not in self.failing:
                    _log.error("health check fails: every request is refused", check=check.name, reason=reason)
                self.failing[check.name] = reason


async def _outcome(check: Check) -> str | None:
    """Run the check; return the reason of a failure, else None."""
    try:
        await check.run()
    except Failed as failed:
        return str(failed)
    except Exception as error:  # noqa: BLE001  a check that breaks must fail the registry, not end
        _log.exception("health check broke", check=check.name)
        return f"{type(error).__name__}: {error}"
    return None


def checks_of(settings: HealthSettings, *, storage: str, probe: Callable[[], Awaitable[None]]) -> list[Check]:
    """Return the configured checks.  `probe` checks the storage, whose kind is `storage`."""
    checks: list[Check] = []
    if settings.storagedriver.enabled:
        every = settings.storagedriver
        run = partial(_storage, probe)
        checks.append(Check(f"storagedriver_{storage}", run, every.interval, every.threshold))
    # A file makes the registry unhealthy at once: the reference ignores its threshold, too.
    checks += [Check(each.file, partial(_file, each.file), each.interval) for each in settings.file]
    checks += [Check(each.uri, partial(_http, each), each.interval, each.threshold) for each in settings.http]
    checks += [Check(each.addr, partial(_tcp, each), each.interval, each.threshold) for each in settings.tcp]
    return checks


async def _storage(probe: Callable[[], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(_LIMIT_S):
            await probe()
    except TimeoutError as error:
        raise Failed(f"the storage did not answer in {_LIMIT_S:g} seconds") from error
    except Exception as error:
        # The message for clients has no cause; the readers of this one have to repair the storage.
        cause = error.__cause__ or error
        raise Failed(str(cause) or type(cause).__name__) from error


async def _file(path: str) -> None:
    if await asyncio.to_thread(os.path.lexists, path):
        raise Failed("file exists")


async def _tcp(check: TcpCheck) -> None:
    limit = check.timeout or _LIMIT_S
    try:
        host, port = host_and_port(check.addr)
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(host or "localhost", port)
    except TimeoutError as error:
        raise Failed(f"connection to {check.addr} timed out after {limit:g} seconds") from error
    except (OSError, ValueError) as error:
        raise Failed(f"connection to {check.addr} failed: {error}") from error
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _http(check: HttpCheck) -> None:
    status = await asyncio.to_thread(_head, check)
    if status != check.statuscode:
        raise Failed(f"{check.uri} answered {status}, not {check.statuscode}")


class _KeepHead(urllib.request.HTTPRedirectHandler):
    """Follows redirects with HEAD, where the standard library would use GET."""

    def redirect_request(self, req: urllib.request.Request, *rest: object) -> urllib.request.Request | None:
        new = super().redirect_request(req, *rest)  # type: ignore[arg-type]  # passed on as it came
        if new is not None:
            new.method = "HEAD"
        return new


def _head(check: HttpCheck) -> int:
    """Return the status of a HEAD request, redirects followed.  Raises `Failed`."""
    request = urllib.request.Request(check.uri, method="HEAD")  # noqa: S310  http or https: config/checks/dependencies.py
    for name, values in check.headers.items():
        request.add_header(name, ", ".join(values))
    limit = check.timeout or _LIMIT_S
    try:
        with urllib.request.build_opener(_KeepHead).open(request, timeout=limit) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise Failed(f"{check.uri}: {reason}") from error
