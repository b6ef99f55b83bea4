"""Description of the machine and the programs of a run."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["describe"]


def describe(scratch: Path, peers: Mapping[str, str]) -> dict[str, str]:
    """Return processor, memory, kernel, disk under `scratch`, load before the run, and the versions of what runs.

    `peers` are programs by name.
    """
    return {
        "processor": f"{_field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) >> 20} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": _disk(scratch),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "moorage": f"{version('moorage')}, httptools {version('httptools')}, uvloop {version('uvloop')}",
        **{name: _version(program) for name, program in peers.items()},
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _disk(scratch: Path) -> str:
    """Return file system and device of the mount of `scratch`."""
    found = "unknown"
    longest = -1
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, mount, kind = line.split()[:3]
        if scratch.resolve().is_relative_to(mount) and len(mount) > longest:
            found, longest = f"{kind} on {device}", len(mount)
    return found


def _version(program: str) -> str:
    """Return the last word that a registry prints for --version, or the commit in the JSON that zot prints."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "unknown version"
    text = answer.stdout.strip() or answer.stderr.strip()
    try:
        fields = json.loads(text)
    except ValueError:
        return text.split()[-1] if text else "unknown version"
    found = " ".join(str(fields[key]) for key in ("commit", "binary-type") if fields.get(key))
    return found or "unknown version"
