"""Where the configuration comes from, and the way from there to settings.

    file or built-in text ─ yaml.py ─► tree ─ environment.py ─► tree ─ older.py ─► tree ─ build.py ─► settings
                                                                                    checks.py, later.py ◄─┘

The file is the argument, else what REGISTRY_CONFIGURATION_PATH names, else one of the two places where images of
the reference keep it, else there is none and the built-in defaults apply, as they do for whoever asks for them.
Variables apply to all of these.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from moorage.config import yaml
from moorage.config.build import build
from moorage.config.checks import check
from moorage.config.environment import apply
from moorage.config.later import refusals
from moorage.config.model import Settings
from moorage.config.nodes import List, Map, Node, Scalar, copied, describe, find, is_blank, is_null
from moorage.config.older import modernise, spread
from moorage.config.problems import NOWHERE, ConfigError, Origin, Problem
from moorage.config.removed import removed
from moorage.config.sections.http import Tls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["BUILT_IN", "PLACES", "Loaded", "found", "load"]

PLACES: Final = (Path("/etc/docker/registry/config.yml"), Path("/etc/distribution/config.yml"))
"""Where `registry:2` and `registry:3` keep their file."""

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that can be served with.

    `source` says where they come from, for people; `path` is the file, None for the built-in defaults;
    `warnings` are problems of kind `unknown` and `warning`.
    """

    settings: Settings
    source: str
    warnings: tuple[Problem, ...] = ()
    path: Path | None = None


def load(
    path: Path | None, environ: Mapping[str, str], *, places: Sequence[Path] | None = None, defaults: bool = False
) -> Loaded:
    """Read file and variables; with `defaults` no file, wherever one lies.

    Raises `ConfigError` with everything that is wrong.
    """
    chosen, problems = (None, []) if defaults else _choose(path, environ, PLACES if places is None else places)
    if chosen is None:
        root, source = _built_in(environ), BUILT_IN
    else:
        root, source = _tree(chosen, problems), str(chosen)
    problems += _empty_sections(root)
    spread(root)
    alone = copied(root)
    problems += [*apply(root, Settings, environ), *modernise(root, Settings)]

    settings, mistakes = build(Settings, root)
    problems += mistakes
    losses = [] if chosen is None else removed(_built_alone(alone), settings, root, environ)
    lost = [loss.key for loss in losses]
    problems = [problem for problem in problems if problem.kind != "warning" or not _is_told(problem.key, lost)]

    def origin(key: str) -> Origin:
        return _origin(root, key) if chosen is not None or key else NOWHERE

    # A key that was wrong by itself has been told of; what its default would mean is no second problem, and
    # neither is what is wrong inside of something that is refused as a whole.
    # A key that is missing because it was misspelt is no second problem either.
    told = [problem.key for problem in problems if problem.kind == "error"]
    misspelt = [problem.meant for problem in problems if problem.kind == "error"]
    for further in (losses, _missing_version(root), refusals(settings, origin), check(settings, origin, environ)):
        fresh = [
            problem
            for problem in further
            if not _is_told(problem.key, told) and not _is_missed(problem.key, misspelt, root)
        ]
        problems += fresh
        told += [problem.key for problem in fresh if problem.kind == "error"]

    if not any(key == "http" or key.startswith("http.tls") for key in told):
        problems += _tls_without_effect(settings, root)
    if any(problem.kind == "error" for problem in problems):
        raise ConfigError(problems)
    return Loaded(settings, source, tuple(problems), chosen)


def _built_alone(root: Map) -> Settings:
    """The settings of the file without variables."""
    modernise(root, Settings)
    settings, _ = build(Settings, root)
    return settings


def _is_told(key: str, told: list[str]) -> bool:
    """Whether an error was noted at `key` or above it."""
    return any(other and (key == other or key.startswith((f"{other}.", f"{other}["))) for other in told)


def _is_missed(key: str, misspelt: list[str], root: Map) -> bool:
    """Whether a misspelling explains why `key`, or the whole section that holds it, is missing."""
    return any(
        key == meant or (meant and key.startswith(f"{meant}.") and find(root, tuple(meant.split("."))) is None)
        for meant in misspelt
    )


def _choose(
    path: Path | None, environ: Mapping[str, str], places: Sequence[Path]
) -> tuple[Path | None, list[Problem]]:
    if path is not None:
        return path, []
    named = environ.get("REGISTRY_CONFIGURATION_PATH", "")
    if named:
        return Path(named), []
    there = _there(places)
    unused = [
        Problem(f"not read: {there[0]} comes first", origin=Origin(str(place)), kind="warning")
        for place in there[1:]
    ]
    return (there[0] if there else None), unused


def found() -> Path | None:
    """The file that is read although nobody names it."""
    return next(iter(_there(PLACES)), None)


def _there(places: Sequence[Path]) -> list[Path]:
    return [place for place in places if os.path.lexists(place)]


def _tree(path: Path, problems: list[Problem]) -> Map:
    """Return the file's tree; what stands in it twice is appended to `problems`.

    Raises `ConfigError` for a file that cannot be read or is no mapping.
    """
    node, _ = yaml.read(_text(path), str(path), problems)
    if node is None or is_null(node):
        return Map(Origin(str(path)))
    if not isinstance(node, Map):
        message = f"expected a mapping with version, storage and http, found {describe(node)}"
        raise ConfigError([Problem(message, origin=node.origin)])
    return node


def _text(path: Path) -> str:
    origin = Origin(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(_SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        message = "no such file; name a configuration file, or none for the built-in defaults"
    except IsADirectoryError:
        message = "is a directory; name the file in it, such as config.yml"
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


def _built_in(environ: Mapping[str, str]) -> Map:
    node, _ = yaml.read(_BUILT_IN_TEXT, BUILT_IN, [], lines=False)
    assert isinstance(node, Map)
    filesystem = find(node, ("storage", "filesystem"))
    assert isinstance(filesystem, Map)
    filesystem.put("rootdirectory", Scalar(str(_data_directory(environ)), node.origin, quoted=True))
    return node


def _data_directory(environ: Mapping[str, str]) -> Path:
    """The user's data directory; for root, what an earlier registry of this machine has filled, if it has."""
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


def _empty_sections(root: Map) -> list[Problem]:
    """Report `auth` and `http.tls` without content, as commented lines or a template leave them.

    The reference takes them; `{}` is written on purpose.
    """
    found = []
    for path, consequence in ((("auth",), "no authentication"), (("http", "tls"), "plain HTTP")):
        section, above = find(root, path), find(root, path[:-1])
        if not isinstance(above, Map) or path[-1] not in above.entries:
            continue
        # A provider without parameters is chosen all the same.
        blank = isinstance(section, Map) and bool(section.entries) and path != ("auth",) and _is_blank(section)
        if is_null(section) or blank:
            message = f"is empty, which means {consequence}; fill it in or remove it"
            found.append(Problem(message, ".".join(path), above.keys[path[-1]], "warning"))
    return found


def _tls_without_effect(settings: Settings, root: Map) -> list[Problem]:
    """Report settings of TLS that leave it off: an error, or a warning where all have their defaults."""
    section = find(root, ("http", "tls"))
    if section is None or settings.http.tls.enabled or _is_blank(section):
        return []
    message = (
        "has no effect: without certificate and key, or letsencrypt.cachefile, the registry speaks plain HTTP; "
        "set them, or write tls: {} for plain HTTP"
    )
    kind: Literal["error", "warning"] = "warning" if settings.http.tls == Tls() else "error"
    return [Problem(message, "http.tls", _origin(root, "http.tls"), kind)]


def _is_blank(node: Node) -> bool:
    """Whether a node and all below it are empty."""
    if isinstance(node, Map):
        return all(_is_blank(below) for below in node.entries.values())
    if isinstance(node, List):
        return all(_is_blank(below) for below in node.items)
    return is_blank(node)


def _missing_version(root: Map) -> list[Problem]:
    if not is_null(root.entries.get("version")):
        return []
    return [Problem('required; the file begins with "version: 0.1"', "version", root.origin)]


def _origin(root: Map, key: str) -> Origin:
    """Where `key` ("health.file[0].file") was written; what is missing has the origin of what should hold it."""
    here: Node = root
    origin = Origin(root.origin.source)
    steps = [int(step) if step.isdecimal() else step for step in re.split(r"[.\[\]]+", key) if step]
    for index, step in enumerate(steps):
        below = find(here, (step,))
        if below is None:
            # A header's name may have dots of its own.
            rest = ".".join(str(other) for other in steps[index:])
            if isinstance(here, Map) and rest in here.keys:
                return here.keys[rest]
            return origin
        origin = here.keys[step] if isinstance(here, Map) and isinstance(step, str) else below.origin
        here = below
    return origin if not isinstance(here, Scalar) else here.origin
