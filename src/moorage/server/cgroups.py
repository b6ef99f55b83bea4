"""Limits of the control group of this process: processors and memory that a container may use.

    /proc/self/cgroup      the group of each hierarchy       3:cpu,cpuacct:/docker/4f2...     0::/system.slice/x
    /proc/self/mountinfo   where each one is mounted, and which of its groups the mount begins with
    cgroup v1              cpu.cfs_quota_us, cpu.cfs_period_us; memory.limit_in_bytes
    cgroup v2              cpu.max; memory.max, memory.high

A group is bound by the limits of all groups above it, as far as they can be seen: in a container its own group is
usually the root.  Both versions may be mounted, each with some of the controllers.  Files that are missing or
cannot be parsed are no limit.  `os.cpu_count()` and the scheduler's affinity do not know of quotas: by them a
container with half a core on a machine of 64 has 64.

Source: cgroups(7); proc(5); Linux Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst,
Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Limits", "limits", "usable_processors"]

_UNLIMITED_BYTES: Final = 1 << 60
"""In v1, no limit is the largest number of pages, which depends on the page size."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`processors` may be a fraction; None where there is no limit."""

    processors: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Mount:
    """`group` is what the mount begins with; `controllers` is empty for version 2."""

    group: PurePosixPath
    point: str
    controllers: frozenset[str]
    version: int


def limits(proc: str = "/proc/self", root: str = "/") -> Limits:
    """Return the limits in force; `root` is where the paths of mounts begin."""
    try:
        groups = _groups(Path(proc, "cgroup").read_text())
        mounts = list(_mounts(Path(proc, "mountinfo").read_text()))
    except (OSError, ValueError, IndexError):  # no control groups, no /proc, or lines of another form
        return Limits()
    processors, memory = [], []
    for directory, version in _directories("cpu", groups, mounts, root):
        processors.append(_quota(directory) if version == 1 else _maximum(directory))
    for directory, version in _directories("memory", groups, mounts, root):
        names = ("memory.limit_in_bytes",) if version == 1 else ("memory.max", "memory.high")
        memory += [_bytes(directory / name) for name in names]
    return Limits(
        min((found for found in processors if found is not None), default=None),
        min((found for found in memory if found is not None), default=None),
    )


def usable_processors(found: Limits | None = None) -> int:
    """Return how many processors this process can keep busy, at least 1: affinity and quota, rounded up."""
    found = limits() if found is None else found
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, math.ceil(found.processors or allowed)))


def _groups(text: str) -> dict[str, PurePosixPath]:
    """Return the group of this process by controller; by "" that of version 2."""
    groups = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = PurePosixPath(path)
    return groups


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if not kind or kind[0] not in {"cgroup", "cgroup2"}:
            continue
        version = 1 if kind[0] == "cgroup" else 2
        controllers = frozenset(kind[2].split(",")) if version == 1 else frozenset({""})
        yield _Mount(PurePosixPath(_unescaped(fields[3])), _unescaped(fields[4]), controllers, version)


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _directories(
    controller: str, groups: dict[str, PurePosixPath], mounts: list[_Mount], root: str
) -> Iterator[tuple[Path, int]]:
    """Yield the directories of the process's group and its ancestors, in each version with the controller."""
    for version, name in ((1, controller), (2, "")):
        group = groups.get(name)
        for mount in mounts:
            if group is None or mount.version != version or name not in mount.controllers:
                continue
            top = Path(root, mount.point.lstrip("/"))
            directory = top.joinpath(*_below(group, mount.group))
            if not directory.is_dir():
                directory = top
            while directory != top:
                yield directory, version
                directory = directory.parent
            yield top, version
            break


def _below(group: PurePosixPath, first: PurePosixPath) -> tuple[str, ...]:
    """Return the steps from the group that a mount begins with to `group`; none if that is not below it.

    Without a namespace of its own a container sees the path of the host, and a mount that begins with its group.
    """
    if ".." in group.parts or not group.is_relative_to(first):
        return ()
    return group.relative_to(first).parts


def _quota(directory: Path) -> float | None:
    quota, period = _number(directory / "cpu.cfs_quota_us"), _number(directory / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _maximum(directory: Path) -> float | None:
    match = re.fullmatch(r"(\d{1,18}) (\d{1,18})\s*", _content(directory / "cpu.max"), re.ASCII)
    if match is None:
        return None
    quota, period = int(match[1]), int(match[2])
    return quota / period if quota and period else None


def _bytes(file: Path) -> int | None:
    found = _number(file)
    return found if found is not None and 0 < found < _UNLIMITED_BYTES else None


def _number(file: Path) -> int | None:
    text = _content(file).strip()
    return int(text) if re.fullmatch(r"-?\d{1,20}", text, re.ASCII) else None


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""
