"""Start checks: everything that keeps `moorage serve` from starting and can be seen beforehand.

    moorage serve         ──► problems ──► errors are logged, nothing starts
    SIGHUP                ──► problems ──► the old configuration stays
    moorage config check  ──► problems ──► all of them are printed

One list for all of them, so that `config check` passes nothing that `serve` refuses.  A check reads files and
imports libraries; it changes nothing, binds no address and contacts no other machine.

What the settings alone show is in `moorage.config.checks.dependencies`, which both run before this.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.config.checks.exposure import beyond_loopback, open_registry
from moorage.config.image_paths import in_image
from moorage.config.problems import Problem
from moorage.server import volume
from moorage.server.housekeeper.acme_job import require_library
from moorage.server.processes.storage_monitor import require_readable
from moorage.server.tls import validation
from moorage.startup import StartupError
from moorage.tracing.check import check as check_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.config.model import Settings

__all__ = ["problems", "warning_of_an_open_registry"]

_SOCKET_PATH_LIMIT_BYTES: Final = 107
"""`sun_path` of unix(7) without its final NUL."""


def problems(settings: Settings, *, binding: bool = True, data_directory: bool = True) -> list[Problem]:
    """Return every problem that keeps the server from starting, and warnings; changes nothing.

    `binding` False leaves out the checks of `http.addr`, for sockets that are bound already; `data_directory`
    False those of the data directory.  The problems of the application itself are those of `Service.check`.
    """
    found: list[Problem] = []
    checks = [*_CHECKS]
    if binding:
        checks.append(_socket)
    if data_directory:
        checks.append(_data_directory)
    for check in checks:
        try:
            found += check(settings)
        except StartupError as error:
            found.append(Problem(error.reason, error.setting))
    return found


def warning_of_an_open_registry(settings: Settings) -> list[Problem]:
    """Return the warning for a registry that other machines reach without authentication.

    By `http.addr`; a server that runs knows its sockets and logs by these.
    """
    text = open_registry(settings, settings.http.addr) if beyond_loopback(settings.http) else None
    return [] if text is None else [Problem(text, kind="warning")]


def _certificates(settings: Settings) -> Iterator[Problem]:
    try:
        _, warnings = validation.check(settings.http.tls)
    except validation.Awaited:
        return  # it is obtained by ACME
    yield from (Problem(text, kind="warning") for text in warnings)


def _traces(_: Settings) -> Iterator[Problem]:
    check_tracing(os.environ)
    yield from ()


def _data_directory(settings: Settings) -> Iterator[Problem]:
    """Check that the stored data can be read; a missing directory is created by the first push."""
    if in_image(os.environ) and (reason := volume.refusal(settings)):
        yield Problem(reason, "storage.filesystem.rootdirectory")
        return
    require_readable(settings)
    yield from ()


def _socket(settings: Settings) -> Iterator[Problem]:
    """Check that a Unix socket can be created; `listeners.py` checks a socket that exists already."""
    if settings.http.net != "unix" or not settings.http.addr:
        return
    path = Path(settings.http.addr)
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT_BYTES:
        yield Problem(f"longer than the {_SOCKET_PATH_LIMIT_BYTES} bytes of a socket's path: {path}", "http.addr")
        return
    reason = _unusable_directory(path.absolute().parent)
    try:
        if not reason and not stat.S_ISSOCK(path.lstat().st_mode):
            reason = "there is a file that is no socket"
    except FileNotFoundError:
        pass
    except OSError as error:
        reason = reason or error.strerror or str(error)
    if reason:
        yield Problem(f"cannot listen on {path}: {reason}", "http.addr")


def _authority(settings: Settings) -> Iterator[Problem]:
    """Check that ACME has its libraries and its directory."""
    acme = settings.http.tls.letsencrypt
    if not acme.cachefile:
        return
    require_library()
    folder = Path(acme.cachefile).absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    if reason := _unusable_directory(folder):
        yield Problem(f"cannot use {acme.cachefile}: {reason}", "http.tls.letsencrypt.cachefile")


def _unusable_directory(path: Path) -> str:
    """Return why no file can be made in a directory, "" if one can."""
    if not path.exists():
        return f"there is no directory {path}"
    if not path.is_dir():
        return f"{path} is not a directory"
    return "" if os.access(path, os.W_OK | os.X_OK) else f"no permission to write in {path}"


_CHECKS: Final[tuple[Callable[[Settings], Iterator[Problem]], ...]] = (
    _certificates,
    _traces,
    _authority,
)
