"""How to get the libraries of an extra, for messages about missing ones: it depends on how Moorage was installed.

container image `slim`      the full image
pipx, uv tool, uvx          the tool's own command with the extra
pip, from an index          pip install 'moorage[EXTRA]'
pip, from a clone or wheel  pip install of the libraries, since an index may not have the package
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["remedy"]

_MARKED: Final = re.compile(r"(?P<requirement>[^;]+);.*\bextra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]")


def remedy(extra: str, environ: Mapping[str, str] = os.environ, prefix: str = sys.prefix) -> str:
    """Return what to do where the libraries of `extra` are missing: the end of a sentence.

    `MOORAGE_IMAGE` is the name of the container image; `prefix` the directory of the Python environment.
    """
    if environ.get("MOORAGE_IMAGE") == "slim":
        return f"the slim image leaves it out; run the full image (moorage:{__version__}) instead"
    return f"install it with: {_command(extra, prefix)}"


def _command(extra: str, prefix: str) -> str:
    url = _url()
    wanted = f"moorage[{extra}] @ {url}" if url else f"moorage[{extra}]"
    folder = Path(prefix)
    if (folder / "pipx_metadata.json").exists():
        return shlex.join(["pipx", "install", "--force", wanted])
    if (folder / "uv-receipt.toml").exists():
        return shlex.join(["uv", "tool", "install", "--force", wanted])
    if any(part.startswith("archive-v") for part in folder.parts):  # an environment in uv's cache
        return shlex.join(["uvx", "--from", wanted, "moorage"])
    libraries = _libraries(extra) if url else []
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *(libraries or [f"moorage[{extra}]"])])


def _url() -> str:
    """Return where the package was installed from, "" for an index or a source tree (PEP 610)."""
    try:
        origin = json.loads(Distribution.from_name("moorage").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return ""
    kind = origin.get("vcs_info", {}).get("vcs", "")
    return f"{kind}+{origin['url']}" if kind else str(origin.get("url", ""))


def _libraries(extra: str) -> list[str]:
    declared = Distribution.from_name("moorage").requires or []
    found = [match for line in declared if (match := _MARKED.fullmatch(line)) and match["extra"] == extra]
    return [match["requirement"].strip() for match in found]
