"""Libraries of extras: checked or imported where a setting needs them; a missing one ends the start.

The error names the command that installs the extra, which depends on what installed this package:

    pip         python -m pip install LIBRARIES
    pipx        pipx inject ENVIRONMENT LIBRARIES
    uv tool     uv tool install 'moorage[EXTRAS]', which replaces the environment
    uvx         uvx --from 'moorage[EXTRAS]' moorage, since its environment is a cache
    uv venv     uv pip install --python PYTHON LIBRARIES

The container image `slim` has no installer: its remedy is the full image.  Its name is in MOORAGE_IMAGE, which the
Dockerfile sets: a fact of the installation, like `sys.prefix`, and no setting.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage import __version__
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import Distribution

__all__ = ["install_command", "load", "remedy", "require"]

_MARKED: Final = re.compile(r"(?P<requirement>[^;]+);.*\bextra\s*==\s*['\"](?P<extra>[^'\"]+)['\"]")
_NAME: Final = re.compile(r"[\w.-]+")
_NOT_FEATURES: Final = {"all", "dev", "testing"}
_UV_CACHES: Final = ("archive-v", "environments-v")
"""Folders of uv's cache that hold the environments of `uvx`."""


def require(extra: str, needed_by: str, *modules: str) -> None:
    """Check that the libraries of `extra` are installed, without importing `modules`.

    `needed_by` is the setting or the variable that needs them: the beginning of the message.  Raises
    `StartupError`, which ends with the `remedy`.
    """
    missing = [name for name in modules if not _can_be_imported(name)]
    if missing:
        raise _missing(extra, needed_by, missing)


def load(extra: str, needed_by: str, *modules: str) -> None:
    """Import `modules`, so that processes forked later share them.  Raises `StartupError`, as `require`."""
    try:
        for name in modules:
            import_module(name)
    except ImportError as error:
        raise _missing(extra, needed_by, [error.name or str(error)]) from error


def _can_be_imported(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def _missing(extra: str, needed_by: str, modules: Iterable[str]) -> StartupError:
    names = " and ".join(modules)
    return StartupError(
        f"{needed_by} needs the extra moorage[{extra}], which is not installed (no {names}); {remedy(extra)}"
    )


def remedy(extra: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return what to do where the libraries of `extra` are missing: the end of a sentence.

    `MOORAGE_IMAGE` in `environ` is the name of the container image.
    """
    if environ.get("MOORAGE_IMAGE") == "slim":
        return f"the slim image leaves it out; run the full image (moorage:{__version__}) instead"
    return f"install it with: {install_command(extra)}"


def install_command(extra: str) -> str:
    """Return a shell command that installs the libraries of `extra` where this package is installed.

    Where possible it names the libraries, not `moorage[EXTRA]`, which works only where the package comes from an
    index.
    """
    prefix, python = Path(sys.prefix), sys.executable or "python3"
    try:
        package = distribution("moorage")
    except PackageNotFoundError:  # run from a source tree
        libraries, whole = [f"moorage[{extra}]"], f"moorage[{extra}]"
    else:
        libraries = _libraries(package, extra) or [f"moorage[{extra}]"]
        whole = _whole(package, extra)
    if (prefix / "pipx_metadata.json").exists():
        command = ["pipx", "inject", prefix.name, *libraries]
    elif (prefix / "uv-receipt.toml").exists():
        command = ["uv", "tool", "install", whole]
    elif any(part.startswith(_UV_CACHES) for part in prefix.parts):
        command = ["uvx", "--from", whole, "moorage"]
    elif find_spec("pip") is not None:
        command = [python, "-m", "pip", "install", *libraries]
    elif _made_by_uv(prefix):
        command = ["uv", "pip", "install", "--python", python, *libraries]
    else:
        command = ["pip", "--python", python, "install", *libraries]
    return shlex.join(command)


def _libraries(package: Distribution, extra: str) -> list[str]:
    """Return the requirements that the package has only with `extra`."""
    found = [_MARKED.fullmatch(line) for line in package.requires or ()]
    return [match["requirement"].strip() for match in found if match is not None and match["extra"] == extra]


def _whole(package: Distribution, extra: str) -> str:
    """Return a requirement for this package with `extra` and the extras that are installed.

    It names where the package came from, if that was no index: direct_url.json of PEP 610.
    """
    offered = [name for name in package.metadata.get_all("Provides-Extra") or () if name not in _NOT_FEATURES]
    present = {name for name in offered if all(map(_is_installed, _libraries(package, name)))}
    requirement = f"moorage[{','.join(sorted({*present, extra}))}]"
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    address = origin.get("url", "")
    if "vcs_info" in origin:
        address = f"{origin['vcs_info']['vcs']}+{address}@{origin['vcs_info']['commit_id']}"
    return f"{requirement} @ {address}" if address else requirement


def _is_installed(requirement: str) -> bool:
    name = _NAME.match(requirement)
    try:
        return name is not None and bool(version(name[0]))
    except PackageNotFoundError:
        return False


def _made_by_uv(prefix: Path) -> bool:
    try:
        lines = (prefix / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)
