"""Builds settings from the tree: parses each value by its field's reader and collects all mistakes.

A value with a mistake becomes the field's default, so that one run reports every mistake; `load.py` raises
`ConfigError` for settings with an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from moorage.config.critical_keys import dotted, is_critical, is_extension, misplaced, near, unprotected
from moorage.config.model import Settings
from moorage.config.problems import Problem, nearest
from moorage.config.scalars import EXPECTED_DURATION, bare_integer, resolve
from moorage.config.schema import Key, ListOf, MapOf, Raw, ScalarOf, SectionOf, Shape, keys_of
from moorage.config.sections.base import FLAG, Section
from moorage.config.tree import List, Map, Node, Scalar, describe, find, is_null

if TYPE_CHECKING:
    from moorage.config.problems import Origin
    from moorage.config.scalars import ScalarReader

__all__ = ["build"]

_S = TypeVar("_S", bound=Section)

_CHOICES = {
    "storage": "a storage driver; expected filesystem, inmemory, s3, gcs or azure",
    "auth": "a way of authentication; expected htpasswd, token, local, silly or none",
}
"""Sections in which an unknown key is an error, because it was meant to choose a driver or provider."""

_STRICT = frozenset({"retention", "immutability", "sync"})
"""Sections of Moorage alone in which every unknown key is an error: a rule without it would delete more."""

_IN_RULES = "unknown key, without which the rule would have another effect; correct or remove it"

_NEAR_MISS = "unknown key, similar to one that protects the registry or its data; correct or remove it"
_MISPLACED = (
    "has no effect in this section; where it belongs, it protects the registry or its data; move or remove it"
)

_DOTTED = "unknown key; a dot does not lead into a section: write the section with the key below it"
_UNPROTECTED = "unknown key, where {} is not configured and may be meant; correct or remove it{}"
_ON_PURPOSE = {
    "auth": ", or write auth: none",
    "http.tls.certificate": ", or write tls: {} for plain HTTP",
}
_WITHOUT_EFFECT = (
    "unknown key in a section that has no other, so that the section has no effect; correct or remove it"
)

_HEADERS = "headers"


class _Unreadable:
    """Type of the marker of a value that could not be parsed."""


_UNREADABLE = _Unreadable()


def build(model: type[_S], node: Map) -> tuple[_S, list[Problem]]:
    """Return the settings of the tree, and its problems."""
    builder = _Builder()
    settings = builder.section(model, node, ())
    if isinstance(settings, Settings):
        builder.refuse_unprotected(settings, node)
    return settings, builder.problems


class _Builder:
    """Builds one section after the other; `problems` grows."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._unknown_keys: list[tuple[int, tuple[str, ...]]] = []
        """Index in `problems` and section of each unknown key that is no near miss of a harmless one."""

    def refuse_unprotected(self, settings: Settings, root: Map) -> None:
        """Turn each unknown key into an error that may have been meant for a missing protection."""
        for index, path in self._unknown_keys:
            problem = self.problems[index]
            if missing := unprotected(path, settings, root):
                message = _UNPROTECTED.format(missing, _ON_PURPOSE.get(missing, ""))
            elif path and is_critical(path) and self._has_no_effect(root, path):
                missing, message = ".".join(path), _WITHOUT_EFFECT
            else:
                continue
            self.problems[index] = replace(problem, message=message, kind="error", meant=missing)

    def _has_no_effect(self, root: Map, path: tuple[str, ...]) -> bool:
        section = find(root, path)
        unknown = sum(other == path for _, other in self._unknown_keys)
        return isinstance(section, Map) and len(section.entries) == unknown

    def _note(self, key: tuple[str, ...], message: str, origin: Origin) -> _Unreadable:
        self.problems.append(Problem(message, _dotted(key), origin))
        return _UNREADABLE

    def section(self, model: type[_S], node: Map, path: tuple[str, ...]) -> _S:
        keys = keys_of(model)
        values: dict[str, Any] = {}
        for name, entry in node.items():
            key = keys.get(name)
            if key is None:
                self._unknown(name, node.keys[name], list(keys), path)
                continue
            if is_null(entry):
                # `inmemory:` chooses a driver without parameters; other keys get their default.
                if not _may_be_absent(key):
                    continue
                entry = Map(entry.origin)  # noqa: PLW2901  the section that the null means
            value = self.value(key.shape, entry, (*path, name), key)
            if value is not _UNREADABLE:
                values[key.field] = value
        return model(**values)

    def _unknown(self, name: str, origin: Origin, known: list[str], path: tuple[str, ...]) -> None:
        key = _dotted((*path, name))
        miss = near(name, known)
        meant = miss or nearest(name, known)
        whole = _dotted((*path, meant)) if meant else None
        if len(path) == 1 and path[0] in _CHOICES:
            message = f"is not {_CHOICES[path[0]]}"
            self.problems.append(Problem(message, key, origin, nearest=whole, meant=path[0]))
        elif path and path[0] in _STRICT:
            self.problems.append(Problem(_IN_RULES, key, origin, nearest=whole, meant=whole or ""))
        elif is_extension(name):
            self.problems.append(Problem("unknown key", key, origin, "unknown"))
        elif miss and is_critical((*path, miss)):
            self.problems.append(Problem(_NEAR_MISS, key, origin, nearest=whole, meant=whole or ""))
        elif place := misplaced(name, path):
            self.problems.append(Problem(_MISPLACED, key, origin, nearest=place, meant=place))
        elif is_critical(steps := (*path, *dotted(name, known))) and len(steps) > len(path):
            self.problems.append(Problem(_DOTTED, key, origin, meant=_dotted(steps)))
        else:
            if not miss:
                self._unknown_keys.append((len(self.problems), path))
            self.problems.append(Problem("unknown key", key, origin, "unknown", whole))

    def value(self, shape: Shape, node: Node, path: tuple[str, ...], key: Key) -> Any:
        match shape:
            case ScalarOf(reader):
                return self._leaf(reader, node, path, key)
            case SectionOf(model):
                if isinstance(node, Map):
                    return self.section(model, node, path)
                return self._note(path, f"expected a mapping, found {self._found(node, key)}", node.origin)
            case ListOf(item):
                return self._list(item, node, path, key)
            case MapOf(value):
                return self._map(value, node, path, key)
            case Raw():
                return _raw(node)

    def _found(self, node: Node, key: Key) -> str:
        return "something else" if key.secret and isinstance(node, Scalar) else describe(node)

    def _leaf(self, reader: ScalarReader, node: Node, path: tuple[str, ...], key: Key) -> Any:
        if not isinstance(node, Scalar):
            hint = " (quote it if it is meant as text)" if reader.kind == "text" else ""
            expected = _with_unit(f"expected {_one(reader)}", key)
            return self._note(path, f"{expected}, found {describe(node)}{hint}", node.origin)
        try:
            value = reader.read(node)
        except ValueError as error:
            return self._note(path, f"{_with_unit(str(error), key)}, found {self._found(node, key)}", node.origin)
        if reader.nanoseconds and bare_integer(node):
            shown = "a number" if node.origin.hidden else node.text
            message = f"{shown} without a unit means {shown} nanoseconds; write {shown}s for seconds"
            self.problems.append(Problem(message, _dotted(path), node.origin, "warning"))
        if reader is FLAG and node.quoted and path[0] == "storage" and value:
            message = "is quoted: true here, but CNCF Distribution takes it for false"
            self.problems.append(Problem(message, _dotted(path), node.origin, "warning"))
        return value

    def _list(self, item: Shape, node: Node, path: tuple[str, ...], key: Key) -> Any:
        if not isinstance(node, List):
            found = self._found(node, key)
            return self._note(path, f"expected a list such as [a, b], found {found}", node.origin)
        values: list[Any] = []
        for index, entry in enumerate(node.items):
            here = (*path, f"[{index}]")
            if is_null(entry):
                if isinstance(item, SectionOf):
                    values.append(item.model())
                elif isinstance(item, ScalarOf):
                    self._note(here, "expected a value, found nothing", entry.origin)
                continue
            values.append(self.value(item, entry, here, key))
        return tuple(value for value in values if value is not _UNREADABLE)

    def _map(self, shape: Shape, node: Node, path: tuple[str, ...], key: Key) -> Any:
        if not isinstance(node, Map):
            return self._note(path, f"expected a mapping, found {self._found(node, key)}", node.origin)
        values: dict[str, Any] = {}
        names: dict[str, str] = {}
        for name, entry in node.items():
            if is_null(entry) and isinstance(shape, ListOf):
                value: Any = ()
            else:
                value = self.value(shape, entry, (*path, name), key)
            if value is _UNREADABLE:
                continue
            # Header names are case-insensitive; CNCF Distribution sends the values of both.
            same = names.setdefault(name.lower(), name) if key.name == _HEADERS else name
            values[same] = values[same] + value if same in values else value
        return values


def _may_be_absent(key: Key) -> bool:
    """Return whether the key's presence has a meaning: drivers, providers, `redis`."""
    return key.optional and isinstance(key.shape, SectionOf | MapOf)


def _one(reader: ScalarReader) -> str:
    """Return the name of a kind of value in messages."""
    if reader.kind == "duration":
        return EXPECTED_DURATION.removeprefix("expected ")
    return f"a {reader.kind}" if reader.kind in {"whole number", "method"} else reader.kind


def _with_unit(expected: str, key: Key) -> str:
    return expected.replace("a whole number", f"a whole number of {key.unit}") if key.unit else expected


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace(".[", "[")


def _raw(node: Node) -> Any:
    """Return an untyped value as yaml.v2 decodes it."""
    match node:
        case Scalar():
            return resolve(node)
        case List():
            return [_raw(item) for item in node.items]
        case Map():
            return {name: _raw(entry) for name, entry in node.items()}
