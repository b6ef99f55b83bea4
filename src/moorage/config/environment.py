"""Environment variables: override the values of the file; `REGISTRY_HTTP_ADDR` is `http.addr`.

A name is split at every `_` and matched, longest words first, against the models' keys, so that a key with an
underscore is found (`REGISTRY_STORAGE_AZURE_MAX_RETRIES`), and against CNCF Distribution's names for some keys
(`REGISTRY_HEALTH_FILECHECKERS_0_FILE`).  The value is a YAML document and replaces the value of the file.
If a name ends in `_FILE` and is no key, it names a file with the value of the key without the suffix
(`value_files.py`).

Supported here, while CNCF Distribution crashes or ignores the variable: list elements that are scalars; keys below
`storage.maintenance`; a variable of one driver while the file names another (the variable's driver is chosen, and
`delete`, `cache`, `redirect`, `maintenance` and `tag` stay); header names in another case; ten list elements and
more; the variables that Kubernetes adds for a service called registry-*.

Source: docs/reference/configuration.md, section 2.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from typing import TYPE_CHECKING, Final

from moorage.config import value_files, yaml
from moorage.config.critical_keys import is_critical, is_near
from moorage.config.deprecated import mapping_for, rename_s3aws
from moorage.config.problems import ConfigError, Origin, Problem, nearest
from moorage.config.schema import ListOf, MapOf, Raw, ScalarOf, SectionOf, Shape, keys_of, walk
from moorage.config.sections.services import PROVIDERS
from moorage.config.sections.storage import DRIVERS
from moorage.config.tree import List, Map, Node, Scalar, find, is_blank, is_null
from moorage.config.value_files import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorage.config.sections.base import Section

__all__ = ["PREFIX", "apply", "variable_of"]

PREFIX: Final = "REGISTRY_"

_NO_SETTINGS: Final = frozenset({"REGISTRY_CONFIGURATION_PATH"})
"""Variables with the prefix that are not settings."""

_ALTERNATIVES: Final = {"storage": DRIVERS, "auth": PROVIDERS}
"""Sections in which one key of several is chosen."""

_SERVICE_LINK: Final = re.compile(
    r"(?P<service>REGISTRY(?:_.+?)??)_(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|(?P<url>PORT)|PORT_\d+_(?:TCP|UDP|SCTP)"
    r"(?:_(?:PROTO|PORT|ADDR))?)",
    re.ASCII,
)
"""Names of the variables that Kubernetes sets in every pod for a service (service links)."""

_FOREIGN: Final = {
    "REGISTRY_AUTH_FILE": "podman, skopeo and buildah take their credentials from the file it names",
}
"""Variables with the prefix that other programs read, and their purpose."""

Path = tuple[str | int, ...]

_NEAR_MISS: Final = (
    "names no setting, and is similar to one that protects the registry or its data; correct or remove it"
)
_CLOSE: Final = 0.85
"""Least similarity of two names for a hint: most of each name is that of the section."""

_LINK_VALUE: Final = re.compile(r"(?:tcp|udp|sctp)://\S+", re.ASCII)


def variable_of(path: tuple[str, ...]) -> str:
    """Return the variable of the key at `path` ("endpoints[]" means its first element)."""
    return PREFIX + "_".join(step.replace("[]", "_0") for step in path).upper()


def apply(root: Map, model: type[Section], environ: Mapping[str, str]) -> list[Problem]:
    """Apply the variables of `environ` to `root`, in order of their names; return the problems."""
    problems: list[Problem] = []
    choices: dict[str, dict[str, str]] = {}
    links: dict[str, str] = {}
    setters: dict[Path, str] = {}
    files = {name for name in environ if _names_file(name, root, model)}
    for name in sorted(environ, key=lambda name: _natural(name.removesuffix(SUFFIX) if name in files else name)):
        if not name.startswith(PREFIX):
            problems += _misspelt_prefix(name, root, model)
            continue
        if name in _NO_SETTINGS:
            continue
        link = _SERVICE_LINK.fullmatch(name)
        if link and (link["url"] is None or _LINK_VALUE.fullmatch(environ[name])):
            links.setdefault(link["service"], name)
            continue
        path = _path(name.removesuffix(SUFFIX) if name in files else name, root, model)
        if path is None:
            problems.append(_unknown(name, model))
            continue
        if path[:2] == ("storage", "s3aws"):
            path = ("storage", "s3", *path[2:])
        other = setters.setdefault(path, name)
        if other != name and not files.isdisjoint({name, other}):
            message = f"sets the same as {other}; remove one of the two variables"
            problems.append(Problem(message, _dotted(path), Origin(name)))
            continue
        try:
            if name in files:
                shape = _shape(SectionOf(model), path)
                payload = value_files.read(name, environ[name], shape, _dotted(path), problems)
            else:
                payload = _payload(name, environ[name], problems)
            problems += _cleared(root, path, payload)
            _set(root, path, payload, choices)
        except ConfigError as error:
            problems += [dataclasses.replace(problem, key=_dotted(path)) for problem in error.problems]
    for name in links.values():
        message = "ignored: looks like a variable that Kubernetes adds for a service, not like a setting"
        problems.append(Problem(message, origin=Origin(name), kind="warning"))
    for section, alternatives in choices.items():
        problems += _choose(root, section, alternatives)
    return problems


def _dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Return the sort key of a name: byte order as in CNCF Distribution, but element 10 after element 2."""
    return [
        (0, int(part), "") if part.isdecimal() and part.isascii() and len(part) < 10 else (1, 0, part)  # noqa: PLR2004
        for part in name.split("_")
    ]


# ----------------------------------------------------------------------------------------- from name to path


def _path(name: str, root: Map, model: type[Section]) -> Path | None:
    return _locate(SectionOf(model), root, name.removeprefix(PREFIX).split("_"))


def _names_file(name: str, root: Map, model: type[Section]) -> bool:
    """Return whether a variable names the file with a setting's value; keys that end in `file` take precedence.

    A free key (a header, a field of the log) counts as one if the file has it.
    """
    if not (name.startswith(PREFIX) and name.endswith(SUFFIX)) or name in _FOREIGN:
        return False
    key = _path(name, root, model)
    if key is not None and (
        _shape(SectionOf(model), key, declared=True) is not None or find(root, key) is not None
    ):
        return False
    return bool(_path(name.removesuffix(SUFFIX), root, model))


def _shape(shape: Shape, path: Path, *, declared: bool = False) -> Shape | None:
    """Return the shape of the value at `path`, None if it is free; `declared`: None for free names too."""
    for step in path:
        match shape:
            case SectionOf(model) if isinstance(step, str):
                shape = keys_of(model)[step].shape
            case ListOf(item):
                shape = item
            case MapOf(value) if not declared and not isinstance(value, Raw):
                shape = value
            case _:
                return None
    return shape


def _splits(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    for count in range(len(words), 0, -1):
        yield "_".join(words[:count]), words[count:]


def _locate(shape: Shape, node: Node | None, words: list[str]) -> Path | None:
    """Return the path that `words` name below `shape`, None if there is none."""
    if not words:
        return ()
    match shape:
        case SectionOf(model):
            return _locate_key(model, node, words)
        case ListOf(item):
            if re.fullmatch(r"\d{1,6}", words[0], re.ASCII) is None:
                return None
            index = int(words[0])
            there = node.items[index] if isinstance(node, List) and index < len(node.items) else None
            rest = _locate(item, there, words[1:])
            return None if rest is None else (index, *rest)
        case MapOf() | Raw():
            return _locate_free(shape, node, words)
        case ScalarOf():
            return None


def _locate_key(model: type[Section], node: Node | None, words: list[str]) -> Path | None:
    for word, rest in _splits(words):
        for name, key in keys_of(model).items():
            if word not in {name.upper(), key.variable}:
                continue
            below = node.entries.get(name) if isinstance(node, Map) else None
            path = _locate(key.shape, below, rest)
            if path is not None:
                return (name, *path)
    # REGISTRY_REDIS_OPTIONS_DB: in CNCF Distribution the options are an inlined struct of that name.
    if words[0] == "OPTIONS" and "addrs" in keys_of(model) and len(words) > 1:
        return _locate_key(model, node, words[1:])
    return None


def _locate_free(shape: MapOf | Raw, node: Node | None, words: list[str]) -> Path | None:
    """Return the path of a key of the file, compared without case, or of a new key in lower case."""
    if not all(words):
        return None
    value: Shape = shape.value if isinstance(shape, MapOf) else Raw()
    entries = node.entries if isinstance(node, Map) else {}
    for word, rest in _splits(words):
        for name, below in entries.items():
            if name.upper() == word.upper():
                path = _locate(value, below, rest)
                if path is not None:
                    return (name, *path)
    if isinstance(shape, Raw) and not isinstance(node, Map):
        return None
    key = "_".join(words).lower()
    if isinstance(value, ListOf) and len(words) > 1 and words[-1].isdecimal():
        rest_path = _locate(value, None, words[-1:])
        return None if rest_path is None else ("_".join(words[:-1]).lower(), *rest_path)
    return (key,)


def _unknown(name: str, model: type[Section]) -> Problem:
    """Return the problem of a variable without a setting: an error for a misspelt critical key."""
    if reader := _FOREIGN.get(name):
        return Problem(f"is not a setting of the registry; {reader}", origin=Origin(name), kind="warning")
    text = name.removeprefix(PREFIX)
    found = min(_near_variables(model, text.split("_")), default=None)
    if found is not None and found[0]:
        _, path, suffix = found
        meant = variable_of(tuple(str(step) for step in path)) + suffix
        if is_critical(path):
            return Problem(_NEAR_MISS, origin=Origin(name), nearest=meant, meant=_dotted(path))
        return Problem("names no setting", origin=Origin(name), kind="unknown", nearest=meant)
    stem = text.removesuffix(SUFFIX)
    suffix = text.removeprefix(stem)
    if joined := _joined(stem, model):
        meant = variable_of(joined) + suffix
        return Problem(_NEAR_MISS, origin=Origin(name), nearest=meant, meant=_dotted(joined))
    known = [variable_of(path).removeprefix(PREFIX) for path, _ in walk(model)]
    whole = next((other for other in known if "_" in stem and other.endswith(f"_{stem}")), None)
    whole = whole or nearest(stem, known, cutoff=_CLOSE)
    hint = whole and f"{PREFIX}{whole}{suffix}"
    return Problem("names no setting", origin=Origin(name), kind="unknown", nearest=hint)


def _misspelt_prefix(name: str, root: Map, model: type[Section]) -> Iterator[Problem]:
    """Report names that would be critical settings in upper case and with underscores.

    Programs have their own `registry_user`, so only the whole name of a setting below a section counts.
    """
    meant = re.sub(r"[.-]", "_", unicodedata.normalize("NFKC", name)).upper()
    if not meant.startswith(PREFIX):
        return
    path = _path(meant.removesuffix(SUFFIX) if _names_file(meant, root, model) else meant, root, model)
    if path is not None and len(path) > 1 and is_critical(path):
        message = "is ignored: names of variables are in upper case, with underscores"
        yield Problem(message, origin=Origin(name), nearest=meant, meant=_dotted(path))


def _joined(text: str, model: type[Section]) -> tuple[str, ...] | None:
    """Return the critical key whose variable differs from `text` by underscores or by a missing section."""
    plain = re.sub(r"^SSL", "TLS", re.sub(r"[._-]", "", text).upper())
    spellings = {plain, re.sub(r"^HTTPS", "HTTPTLS", plain), re.sub(r"^HTTPAUTH", "AUTH", plain)}
    if plain.startswith("TLS"):
        spellings.add(f"HTTP{plain}")
    if plain.startswith("HTPASSWD"):
        spellings.add(f"AUTH{plain}")
    for path, _ in walk(model):
        # A name of two words could be that of any program's variable.
        if len(path) > 2 and is_critical(path) and "".join(path).replace("[]", "0").upper() in spellings:  # noqa: PLR2004
            return path
    return None


def _near_variables(model: type[Section], words: list[str]) -> Iterator[tuple[int, Path, str]]:
    """Yield the results of `_near`, each with the suffix of the variable that may have been meant."""
    for misses, path in _near(SectionOf(model), words):
        yield misses, path, ""
    *first, last = words
    if first and is_near(last, "file"):
        for misses, path in _near(SectionOf(model), first):
            yield misses + (last != "FILE"), path, SUFFIX
    elif last.endswith("FILE"):
        for misses, path in _near(SectionOf(model), [*first, last.removesuffix("FILE")]):
            yield misses + 1, path, SUFFIX


def _near(shape: Shape, words: list[str]) -> Iterator[tuple[int, Path]]:
    """Yield the paths below `shape` that misspelt `words` may name, each with the number of misspelt steps."""
    if not words:
        yield 0, ()
        return
    match shape:
        case SectionOf(model):
            for word, rest in _splits(words):
                for name, key in keys_of(model).items():
                    exact = word in {name.upper(), key.variable}
                    if exact or is_near(word, name) or (key.variable and is_near(word, key.variable)):
                        for misses, path in _near(key.shape, rest):
                            yield misses + (not exact), (name, *path)
        case ListOf(item) if words[0].isdecimal():
            for misses, path in _near(item, words[1:]):
                yield misses, ("0", *path)
        case MapOf() | Raw():
            yield 0, ()
        case _:
            return


# ---------------------------------------------------------------------------------------- from value to tree


def _payload(name: str, value: str, problems: list[Problem]) -> Node:
    """Parse the value.  Raises `ConfigError` if it is not YAML."""
    origin = Origin(name)
    try:
        node, end = yaml.read(value, name, problems, lines=False)
    except ConfigError as error:
        message = "is not valid YAML; quote it: " + name + "='\"...\"'"
        raise ConfigError([Problem(message, origin=origin)]) from error
    if node is None:
        return Scalar("", origin)
    if isinstance(node, Scalar) and re.match(r"\s+#", value[end:]):
        message = "everything from # on is a comment; quote the value if it belongs to it"
        problems.append(Problem(message, origin=origin, kind="warning"))
    return node


def _cleared(root: Map, path: Path, value: Node) -> Iterator[Problem]:
    """Warn of an empty variable that clears the file's value of a critical key.

    `config/checks/removed_protection.py` reports an error if authentication, TLS or the data directory is lost.
    """
    before = find(root, path)
    if not is_blank(value) or not is_critical(path):
        return
    if before is None or is_blank(before) or (isinstance(before, Map) and not before.entries):
        return
    yield Problem("is empty and replaces the value of the file", _dotted(path), value.origin, "warning")


def _set(root: Map, path: Path, value: Node, choices: dict[str, dict[str, str]]) -> None:
    """Set the value at `path`; missing sections are created.

    Nothing is set below a value of the wrong shape, which `build.py` reports.
    Raises `ConfigError` for a list element after a gap.
    """
    section = path[0]
    if isinstance(section, str) and section in _ALTERNATIVES:
        noted = _note_choice(root, section, path, value, choices)
        if noted is None:
            return
        value = noted
    if len(path) == 1:
        assert isinstance(section, str)
        root.put(section, value)
        return
    here: Node = root
    for step, following in itertools.pairwise(path):
        made: Node = List(value.origin) if isinstance(following, int) else Map(value.origin)
        below = _child(here, step)
        if below is None or is_null(below):
            _attach(here, step, made)
            below = made
        elif isinstance(below, Scalar):
            return
        here = below
    _attach(here, path[-1], value)


def _child(node: Node, step: str | int) -> Node | None:
    if isinstance(node, Map) and isinstance(step, str):
        return node.entries.get(step)
    if isinstance(node, List) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None


def _attach(node: Node, step: str | int, value: Node) -> None:
    if isinstance(node, Map) and isinstance(step, str):
        node.put(step, value)
    elif isinstance(node, List) and isinstance(step, int):
        if step > len(node.items):
            message = f"there is no element {len(node.items)} yet; elements are counted from 0 without gaps"
            raise ConfigError([Problem(message, origin=value.origin)])
        node.items[step : step + 1] = [value]


# ---------------------------------------------------------------------------- the driver and the provider


def _note_choice(
    root: Map, section: str, path: Path, value: Node, choices: dict[str, dict[str, str]]
) -> Node | None:
    """Record the driver or provider that a variable concerns; return the value for `path`, None for none.

    `REGISTRY_STORAGE=s3` and `REGISTRY_STORAGE='{s3: {...}}'` choose a driver and keep the keys of all drivers.
    """
    alternatives = _ALTERNATIVES[section]
    noted = choices.setdefault(section, {})
    before = root.entries.get(section)
    if len(path) > 1:
        if path[1] in alternatives:
            if is_null(value) and not (isinstance(before, Map) and path[1] in before.entries):
                return None  # an empty variable chooses nothing
            noted.setdefault(str(path[1]), value.origin.source)
        return value
    if is_null(value):
        noted.clear()
        return value
    if isinstance(value, Scalar):
        if value.origin.hidden and value.text not in {*alternatives, "s3aws"}:
            message = f"expected one of {', '.join(alternatives)} in the file"
            raise ConfigError([Problem(message, origin=value.origin)])
        value = mapping_for(section, value)
    if not isinstance(value, Map):
        return value
    rename_s3aws(value)
    if isinstance(before, Map):
        for name, node in before.items():
            if name not in alternatives and name not in value.entries:
                value.put(name, node, before.keys[name])
    noted.update({name: value.origin.source for name in value.entries if name in alternatives})
    return value


def _choose(root: Map, section: str, noted: dict[str, str]) -> list[Problem]:
    """Remove the file's choice if the variables choose another; refuse contradictory variables."""
    if len(noted) > 1:
        choices = " and ".join(f"{name} ({variable})" for name, variable in noted.items())
        return [Problem(f"variables choose more than one: {choices}", section)]
    node = root.entries.get(section)
    if noted and isinstance(node, Map):
        (chosen,) = noted
        for name in _ALTERNATIVES[section]:
            if name != chosen:
                node.drop(name)
    return []
