"""Files that a setting may name by mistake and that are not regular: to read one blocks, or never ends."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL: Final = {
    "pipe": "not a regular file but a named pipe; give the path of a regular file",
    "socket": "not a regular file but a socket; give the path of a regular file",
    "zero": "not a regular file but a device; give the path of a regular file",
}
"""The reason that is reported, by kind."""


def make_special(kind: str, path: Path) -> None:
    """Put a special file of that kind, or a link to it, in the place of `path`."""
    new = path.with_name("special")
    if kind == "pipe":
        os.mkfifo(new)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(new))
    else:
        new.symlink_to("/dev/zero")
    new.replace(path)
