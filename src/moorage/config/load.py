"""Loads the settings from file and variables.

source.py ─► tree ─ environment.py ─► tree ─ deprecated.py ─► tree ─ build.py ─► settings
                                                            config/checks/dependencies.py, unsupported.py ◄─┘
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from moorage.config.build import build
from moorage.config.checks.dependencies import check
from moorage.config.checks.removed_protection import removed
from moorage.config.deprecated import expand_short_forms, replace_deprecated
from moorage.config.environment import apply
from moorage.config.model import Settings
from moorage.config.problems import NOWHERE, ConfigError, Origin, Problem
from moorage.config.sections.http import Tls
from moorage.config.source import BUILT_IN, built_in, choose, tree
from moorage.config.tree import List, Map, Node, Scalar, copied, find, is_blank, is_null
from moorage.config.unsupported import refusals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Examined", "Loaded", "examine", "load"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings.

    `source` is their origin for messages; `path` is the file, None for the built-in defaults; `warnings` are the
    problems of kind `unknown` and `warning`.
    """

    settings: Settings
    source: str
    warnings: tuple[Problem, ...] = ()
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """A configuration that may have errors; settings with an error have their default.

    For commands that report on a configuration; never used to serve.
    """

    settings: Settings
    source: str
    problems: tuple[Problem, ...]
    path: Path | None

    @property
    def refused(self) -> bool:
        """Return whether there is an error, so that `serve` does not start."""
        return any(problem.kind == "error" for problem in self.problems)


def load(
    path: Path | None, environ: Mapping[str, str], *, places: Sequence[Path] | None = None, defaults: bool = False
) -> Loaded:
    """Read file and variables; with `defaults` no file, even if there is one.

    Raises `ConfigError` with all problems.
    """
    examined = examine(path, environ, places=places, defaults=defaults)
    if examined.refused:
        raise ConfigError(examined.problems)
    return Loaded(examined.settings, examined.source, examined.problems, examined.path)


def examine(
    path: Path | None, environ: Mapping[str, str], *, places: Sequence[Path] | None = None, defaults: bool = False
) -> Examined:
    """Read file and variables as `load` does; return the settings with all problems.

    Raises `ConfigError` for a file that cannot be read or is not a mapping.
    """
    chosen, problems = (None, []) if defaults else choose(path, environ, places)
    if chosen is None:
        root, source = built_in(environ), BUILT_IN
    else:
        root, source = tree(chosen, problems, environ), str(chosen)
    problems += _empty_sections(root)
    expand_short_forms(root)
    alone = copied(root)
    problems += [*apply(root, Settings, environ), *replace_deprecated(root, Settings)]

    settings, mistakes = build(Settings, root)
    problems += mistakes
    losses = [] if chosen is None else removed(_built_alone(alone), settings, root, environ)
    lost = [loss.key for loss in losses]
    problems = [
        problem for problem in problems if problem.kind != "warning" or not _is_reported(problem.key, lost)
    ]

    def origin(key: str) -> Origin:
        return _origin(root, key) if chosen is not None or key else NOWHERE

    # Consequences of a reported error are not reported: those of a key's default in place of a wrong value, of
    # problems inside a refused section, and of a key that is missing because it was misspelt.
    reported = [problem.key for problem in problems if problem.kind == "error"]
    misspelt = [problem.meant for problem in problems if problem.kind == "error"]
    for further in (losses, _missing_version(root), refusals(settings, origin), check(settings, origin, environ)):
        fresh = [
            problem
            for problem in further
            if not _is_reported(problem.key, reported) and not _is_explained(problem.key, misspelt, root)
        ]
        problems += fresh
        reported += [problem.key for problem in fresh if problem.kind == "error"]

    if not any(key == "http" or key.startswith("http.tls") for key in reported):
        problems += _tls_without_effect(settings, root)
    return Examined(settings, source, tuple(_without_hidden(problem, root) for problem in problems), chosen)


def _built_alone(root: Map) -> Settings:
    """Return the settings of the file without variables."""
    replace_deprecated(root, Settings)
    settings, _ = build(Settings, root)
    return settings


def _is_reported(key: str, reported: list[str]) -> bool:
    """Return whether an error was reported at `key` or above it."""
    return any(other and (key == other or key.startswith((f"{other}.", f"{other}["))) for other in reported)


def _is_explained(key: str, misspelt: list[str], root: Map) -> bool:
    """Return whether a misspelling explains why `key`, or the section that contains it, is missing."""
    return any(
        key == meant or (meant and key.startswith(f"{meant}.") and find(root, tuple(meant.split("."))) is None)
        for meant in misspelt
    )


def _empty_sections(root: Map) -> list[Problem]:
    """Report `auth` and `http.tls` without content, as left by commented lines or a template.

    CNCF Distribution accepts them; `{}` is explicit.
    """
    found = []
    for path, consequence in ((("auth",), "no authentication"), (("http", "tls"), "plain HTTP")):
        section, above = find(root, path), find(root, path[:-1])
        if not isinstance(above, Map) or path[-1] not in above.entries:
            continue
        # A provider without parameters is a choice.
        blank = isinstance(section, Map) and bool(section.entries) and path != ("auth",) and _is_blank(section)
        if is_null(section) or blank:
            message = f"is empty, which means {consequence}; fill it in or remove it"
            found.append(Problem(message, ".".join(path), above.keys[path[-1]], "warning"))
    return found


def _tls_without_effect(settings: Settings, root: Map) -> list[Problem]:
    """Report settings of TLS that do not enable it: an error, or a warning if all have their defaults."""
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
    """Return whether a node and all below it are empty."""
    if isinstance(node, Map):
        return all(_is_blank(below) for below in node.entries.values())
    if isinstance(node, List):
        return all(_is_blank(below) for below in node.items)
    return is_blank(node)


def _missing_version(root: Map) -> list[Problem]:
    if not is_null(root.entries.get("version")):
        return []
    return [Problem('required; the file begins with "version: 0.1"', "version", root.origin)]


def _without_hidden(problem: Problem, root: Map) -> Problem:
    """Return `problem` without the value in its message if the value came from a file (`value_files.py`)."""
    node = find(root, _steps(problem.key))
    if not isinstance(node, Scalar) or not node.origin.hidden or not node.text:
        return problem
    shown = repr(node.text)
    message = problem.message.replace(f"found {shown}", "found something else").replace(shown, "what it names")
    return replace(problem, message=message)


def _steps(key: str) -> tuple[str | int, ...]:
    return tuple(int(step) if step.isdecimal() else step for step in re.split(r"[.\[\]]+", key) if step)


def _origin(root: Map, key: str) -> Origin:
    """Return the origin of `key` ("health.file[0].file"); that of its section if the key is missing."""
    here: Node = root
    origin = Origin(root.origin.source)
    steps = _steps(key)
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
