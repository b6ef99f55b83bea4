"""Source of the configuration: a file or the built-in defaults, as a tree without variables.

The file is the argument, else the one that REGISTRY_CONFIGURATION_PATH names, else one of the two locations of
CNCF Distribution's images; without a file the built-in defaults apply.  `image_paths.py` chooses inside the
container image.  Imports no settings, so that `moorage health` starts quickly.

Above: `load.py`, `listener.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.config import image_paths, yaml
from moorage.config.problems import ConfigError, Origin, Problem
from moorage.config.tree import Map, Scalar, describe, find, is_null

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BUILT_IN", "PLACES", "built_in", "choose", "found", "tree"]

PLACES: Final = (Path("/etc/docker/registry/config.yml"), Path("/etc/distribution/config.yml"))
"""Locations of the file of `registry:2` and `registry:3`."""

BUILT_IN: Final = "built-in defaults"

_BUILT_IN_TEXT: Final = """\
version: 0.1
storage:
  filesystem: {}
  cache: {blobdescriptor: inmemory}
http:
  addr: 127.0.0.1:5000
"""

_SIZE_LIMIT_BYTES: Final = 4 * 2**20


def choose(
    path: Path | None, environ: Mapping[str, str], places: Sequence[Path] | None = None
) -> tuple[Path | None, list[Problem]]:
    """Return the file to read, None for the built-in defaults, and warnings about files that are not read."""
    places = PLACES if places is None else places
    variable = environ.get("REGISTRY_CONFIGURATION_PATH", "")
    if image_paths.in_image(environ):
        return image_paths.choose(path or (Path(variable) if variable else None), places)
    there = _there(places)
    if path is not None or variable:
        named = path or Path(variable)
        # Another file is read on purpose; of both locations one may be named by the image and the other mounted.
        others = [place for place in there if place != named] if named in places else []
        how = "on the command line" if path else "by REGISTRY_CONFIGURATION_PATH"
        return named, _unused(others, f"not read: {named} is named {how}")
    return (there[0], _unused(there[1:], f"not read: {there[0]} comes first")) if there else (None, [])


def _unused(files: list[Path], message: str) -> list[Problem]:
    return [Problem(message, origin=Origin(str(file)), kind="warning") for file in files]


def found() -> Path | None:
    """Return the file that is read if none is named."""
    return next(iter(_there(PLACES)), None)


def _there(places: Sequence[Path]) -> list[Path]:
    return [place for place in places if os.path.lexists(place)]


def tree(path: Path, problems: list[Problem], environ: Mapping[str, str]) -> Map:
    """Return the file's tree; duplicate keys are appended to `problems`.

    Raises `ConfigError` for a file that cannot be read or is no mapping.
    """
    node, _ = yaml.read(_text(path, environ), str(path), problems)
    if node is None or is_null(node):
        return Map(Origin(str(path)))
    if not isinstance(node, Map):
        message = f"expected a mapping with version, storage and http, found {describe(node)}"
        raise ConfigError([Problem(message, origin=node.origin)])
    return node


def _text(path: Path, environ: Mapping[str, str]) -> str:
    origin = Origin(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        message = (
            f"no such file, since a directory without {path.name} is mounted at {path.parent}; put it there"
            if path in PLACES and image_paths.in_image(environ)
            else "no such file; name a configuration file, or none for the built-in defaults"
        )
    except IsADirectoryError:
        message = _directory(path)
    except PermissionError:
        message = "not readable by this user; change its permissions or its owner"
    except (OSError, ValueError) as error:
        message = f"cannot be read: {error.strerror if isinstance(error, OSError) else error}"
    else:
        if len(data) > _SIZE_LIMIT_BYTES:
            message = f"larger than {_SIZE_LIMIT_BYTES} bytes; is this the configuration?"
            raise ConfigError([Problem(message, origin=origin)])
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            message = "not UTF-8; save it in that encoding"
            raise ConfigError([Problem(message, origin=Origin(str(path), line))]) from error
    raise ConfigError([Problem(message, origin=origin)])


def _directory(path: Path) -> str:
    """Return the message about a directory in place of the file."""
    try:
        empty = not any(path.iterdir())
    except OSError:
        empty = False
    if not empty:
        return "is a directory; name the file in it, such as config.yml"
    return (
        "is an empty directory, which Docker creates where the file to mount does not exist on the host; "
        "remove that directory, create the file in its place, and create the container again"
    )


def built_in(environ: Mapping[str, str]) -> Map:
    """Return the tree of the built-in defaults."""
    node, _ = yaml.read(_BUILT_IN_TEXT, BUILT_IN, [], lines=False)
    assert isinstance(node, Map)
    filesystem = find(node, ("storage", "filesystem"))
    assert isinstance(filesystem, Map)
    filesystem.put("rootdirectory", Scalar(str(_data_directory(environ)), node.origin, quoted=True))
    return node


def _data_directory(environ: Mapping[str, str]) -> Path:
    """Return the user's data directory; for root, `/var/lib/registry` if it exists."""
    earlier = Path("/var/lib/registry")
    if os.geteuid() == 0 and earlier.is_dir():
        return earlier
    named = environ.get("XDG_DATA_HOME", "")
    if named and Path(named).is_absolute():  # "must be absolute", XDG base directory specification
        return Path(named, "moorage")
    home = environ.get("HOME", "")
    try:
        base = Path(home) if home else Path.home()
    except RuntimeError:  # a user without an entry, as in `docker run --user 1234`
        return earlier
    return base / ".local" / "share" / "moorage"
