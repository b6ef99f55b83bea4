"""The ports that a process listens on."""

from __future__ import annotations

import contextlib
from pathlib import Path


def listening(pid: int) -> set[int]:
    """The TCP ports that a process listens on."""
    held = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.add(str(link.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in held
    }
