"""Process metrics from proc(5).  A process that has just ended counts as 0."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moorage.metrics.recorder import Reading

__all__ = ["cpu_seconds", "readings"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_USER, _SYSTEM, _STARTED, _VIRTUAL, _RESIDENT = 11, 12, 19, 20, 21
"""Columns of /proc/PID/stat, counted from the one after the program's name."""


def readings(master: int, workers: Iterable[int]) -> Iterator[Reading]:
    """Return the `process_...` gauges, summed over all processes."""
    virtual = resident = files = 0
    for pid in (master, *workers):
        with suppress(OSError):
            columns = _stat(pid)
            virtual += int(columns[_VIRTUAL])
            resident += int(columns[_RESIDENT]) * _PAGE_BYTES
            files += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208  only their number counts
    yield "process_virtual_memory_bytes", (), virtual
    yield "process_resident_memory_bytes", (), resident
    yield "process_open_fds", (), files
    yield "process_max_fds", (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    with suppress(OSError):
        yield "process_start_time_seconds", (), _BOOTED_S + int(_stat(master)[_STARTED]) / _TICKS


def cpu_seconds(pid: int) -> float:
    """Return user and system time in seconds.  Raises OSError if the process has ended."""
    columns = _stat(pid)
    return (int(columns[_USER]) + int(columns[_SYSTEM])) / _TICKS


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _booted() -> int:
    """Return when the machine started, in seconds since 1970.

    By the clocks where /proc has nothing but processes (`ProcSubset=pid` of systemd).
    """
    with suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return int(line.split()[1])
    return int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))


_BOOTED_S: Final = _booted()
"""Read once: by the clocks it would vary, and a start time that changes looks like a restart."""
