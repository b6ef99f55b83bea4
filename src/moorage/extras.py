"""The command that installs what an extra of this package needs, for messages about missing libraries."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires
from typing import Final

__all__ = ["install_command"]

_MARKED: Final = re.compile(r"(?P<requirement>[^;]+);.*\bextra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]")


def install_command(extra: str) -> str:
    """Return a shell command that installs the libraries of `extra` into the running interpreter's environment.

    It names the libraries, not `moorage[EXTRA]`: that works only where the package comes from an index.
    """
    try:
        declared = requires("moorage") or []
    except PackageNotFoundError:  # run from a source tree
        declared = []
    found = [match for line in declared if (match := _MARKED.fullmatch(line)) and match["extra"] == extra]
    wanted = [match["requirement"].strip() for match in found] or [f"moorage[{extra}]"]
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *wanted])
