"""Remedies for exhausted resources of the operating system: one table for messages of all rooms.

Descriptors (EMFILE, ENFILE), memory (ENOMEM) and threads (EAGAIN) are used up in the same ways by files of the
storage, by sockets and by certificates.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REMEDIES", "no_thread_error", "remedy_of"]

REMEDIES: Final[Mapping[int, str]] = {
    errno.EMFILE: "raise the limit of open files of the process (LimitNOFILE=, ulimit -n)",
    errno.ENFILE: "raise the limit of open files of the host (sysctl fs.file-max)",
    errno.ENOMEM: "the host, or the control group, has too little memory",
    errno.EAGAIN: "raise the limit of threads (TasksMax=, ulimit -u, pids.max)",
}


def remedy_of(error: BaseException) -> str:
    """Return the remedy for an OSError, or for an error that was caused by one; "" for all others."""
    if not isinstance(error, OSError):
        return "" if error.__cause__ is None else remedy_of(error.__cause__)
    return REMEDIES.get(error.errno or 0, "")


def no_thread_error() -> OSError:
    """Return the error for a thread that cannot be started, which `threading` reports as a RuntimeError."""
    return OSError(errno.EAGAIN, "no thread can be started (ulimit -u, pids.max)")
