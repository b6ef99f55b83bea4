"""Directory for files that only save time, private to the user: systemd's, XDG's, or a temporary one.

A process of another user must not be able to write there: what garbage collection reads from its cache decides
what it examines.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from moorage.wiring.description import store_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorage.config.model import Settings

__all__ = ["cache_file"]


def cache_file(settings: Settings, kind: str, environ: Mapping[str, str]) -> Path | None:
    """Return the file of this store for caches of `kind`; None if no private directory can be made.

    Two stores never share a file: its name is a hash of the place of the data.
    """
    fields = {name: value for name, value in store_fields(settings).items() if name != "readonly"}
    name = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]
    for directory in _candidates(environ):
        if _is_private(directory):
            return directory / f"{kind}-{name}"
    return None


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    if systemd := environ.get("CACHE_DIRECTORY", ""):
        yield Path(systemd.partition(":")[0])
    if xdg := environ.get("XDG_CACHE_HOME", ""):
        yield Path(xdg, "moorage")
    if home := environ.get("HOME", ""):
        yield Path(home, ".cache", "moorage")
    yield Path(environ.get("TMPDIR", "") or tempfile.gettempdir(), f"moorage-{os.geteuid()}")


def _is_private(directory: Path) -> bool:
    """Create the directory if it is missing; return whether this user alone can write there."""
    if not directory.is_absolute():
        return False
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError:
        return False
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return private and os.access(directory, os.W_OK | os.X_OK)
