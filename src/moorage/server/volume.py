"""Refuses, inside the container image, a volume that the container's user may not write to.

The image runs as uid 1000; volumes that `registry:2` filled for years belong to root, and directories of the host
to any user.  Such a registry would serve pulls and refuse every push, so the start is refused with the two
commands that help.  The owner of the data is never changed here: that may take an hour, and the next container may
run as another user.

Only owners and modes are checked, of a fixed number of directories; a read-only or full file system is reported by
the storage monitor.  Outside the image nothing changes: `moorage serve` starts and reports the
directory as degraded.

Used by: `preflight.py`.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.server.processes.storage_monitor import monitored
from moorage.storage.filesystem.data_directory import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.model import Settings

__all__ = ["refusal"]


def refusal(settings: Settings) -> str:
    """Return why the volume cannot be used, and what to do; "" if nothing keeps this user from writing."""
    target = monitored(settings)
    if target is None:
        return ""
    for directory in _directories(Path(target.root)):
        searchable = os.access(directory, os.R_OK | os.X_OK)
        if searchable and (not target.write or os.access(directory, os.W_OK) or _is_read_only(directory)):
            continue
        root = Path(target.root)
        return _nothing_mounted(directory, root) if searchable and not root.is_dir() else _message(directory, root)
    return ""


def _directories(root: Path) -> Iterator[Path]:
    """The directories in which a push creates others, or the one in which the data directory would be created."""
    if not os.path.isdir(root):  # noqa: PTH112  Path.is_dir raises below a directory that may not be entered
        while not os.path.isdir(root):  # noqa: PTH112
            root = root.parent
        yield root
        return
    yield root
    layout = root / LAYOUT
    yield from (path for path in (root / "docker", root / "docker/registry", layout) if path.is_dir())
    for name in ("repositories", "blobs", "blobs/sha256"):
        if (layout / name).is_dir():
            yield layout / name
    # 256 at most: a volume whose owner was changed down to here only.
    shards = layout / "blobs" / "sha256"
    if os.access(shards, os.R_OK | os.X_OK):
        yield from (Path(entry.path) for entry in os.scandir(shards) if entry.is_dir())


def _is_read_only(directory: Path) -> bool:
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:  # a file system that fails, which the storage monitor reports
        return True


def _nothing_mounted(above: Path, root: Path) -> str:
    """Return the message for a data directory that is not there: as root, it would be lost with the container."""
    if os.path.lexists(root):
        return f"{root} is not a directory; mount the volume there (docker run -v VOLUME:{root} ...)"
    return (
        f"there is no {root} in this container, and {os.geteuid()}:{os.getegid()} may not create it in {above}; "
        f"mount the volume there (docker run -v VOLUME:{root} ...), or name the directory at which it is mounted"
    )


def _message(directory: Path, root: Path) -> str:
    status = directory.stat()
    uid, gid = os.geteuid(), os.getegid()
    owner = f"{status.st_uid}:{status.st_gid}"
    return (
        f"{directory} belongs to {owner} with mode {stat.S_IMODE(status.st_mode):04o}, and this container runs as "
        f"{uid}:{gid}, which may not write there; run it as the owner (docker run --user {owner} ...), or stop it "
        f"and change the owner once: docker run --rm --user 0:0 -v {shlex.quote(f'VOLUME:{root}')} "
        f"--entrypoint chown IMAGE -R {uid}:{gid} {shlex.quote(str(root))}"
    )
