"""The machine a run was made on, in words; numbers mean nothing without it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["describe"]


def describe(scratch: Path) -> dict[str, str]:
    """Processor, memory, kernel, disk under `scratch`, load before the run, and what ran."""
    return {
        "processor": f"{_field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) >> 20} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _disk(scratch),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "moorage": f"{version('moorage')}, httptools {version('httptools')}, uvloop {version('uvloop')}",
        "docker-registry": _peer(),
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _disk(scratch: Path) -> str:
    """File system and device of the mount that holds `scratch`."""
    found = "unknown"
    longest = -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        if scratch.resolve().is_relative_to(mount) and len(mount) > longest:
            found, longest = f"{kind} on {device}", len(mount)
    return found


def _peer() -> str:
    answer = subprocess.run(["docker-registry", "--version"], capture_output=True, text=True, check=True)
    return answer.stdout.split()[-1]
