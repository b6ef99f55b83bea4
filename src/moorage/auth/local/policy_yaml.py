"""Reads values of a YAML file; reports every mistake with its line, its key and the expected value.

The dialect is that of the configuration (`config/yaml.py`), where duplicate keys are errors: of two lists of rules
one would silently be ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.config import yaml
from moorage.config.problems import ConfigError, Origin, Problem, nearest
from moorage.config.scalars import read_flag, read_seconds
from moorage.config.tree import List, Map, Scalar, describe, is_null

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moorage.config.tree import Node

__all__ = ["YamlReader", "tree_of"]


def tree_of(data: bytes, path: str) -> tuple[Map | None, list[Problem]]:
    """Return the tree of a file with this content, None if it is malformed, and its problems."""
    origin = Origin(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Problem("not UTF-8; save it in that encoding", origin=Origin(path, line))]
    problems: list[Problem] = []
    try:
        node, _ = yaml.read(text, path, problems)
    except ConfigError as error:
        return None, list(error.problems)
    if node is None or is_null(node):
        return Map(origin), problems
    if not isinstance(node, Map):
        return None, [Problem(f"expected a mapping, found {describe(node)}", origin=node.origin)]
    return node, problems


class YamlReader:
    """Reads values of a tree, and collects the problems; invalid values are left out."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.problems = list(problems)

    def note(self, key: str, message: str, origin: Origin, meant: str | None = None) -> None:
        """Add an error; `meant` is the nearest known value."""
        self.problems.append(Problem(message, key, origin, nearest=meant))

    def warn(self, key: str, message: str, origin: Origin) -> None:
        """Add a warning."""
        self.problems.append(Problem(message, key, origin, "warning"))

    def mapping(self, node: Node | None, key: str, known: Iterable[str] | None = None) -> Mapping[str, Node]:
        """Return the entries of a mapping; keys that are not in `known` are errors."""
        if is_null(node):
            return {}
        assert node is not None
        if not isinstance(node, Map):
            self.note(key, f"expected a mapping, found {describe(node)}", node.origin)
            return {}
        if known is None:
            return node.entries
        names = list(known)
        for name in node.entries.keys() - set(names):
            self.note(f"{key}.{name}" if key else name, "unknown key", node.keys[name], nearest(name, names))
        return {name: value for name, value in node.entries.items() if name in names}

    def sequence(self, node: Node | None, key: str) -> list[Node]:
        """Return the items of a list."""
        if is_null(node):
            return []
        assert node is not None
        if isinstance(node, List):
            return node.items
        self.note(key, f"expected a list, found {describe(node)}", node.origin)
        return []

    def texts(self, node: Node | None, key: str) -> list[tuple[str, str, Origin]]:
        """Return each text of a list with its key and position; a single text counts as a list."""
        if node is None:
            return []
        if isinstance(node, Scalar) and not is_null(node):
            return [(node.text, key, node.origin)]
        found: list[tuple[str, str, Origin]] = []
        for index, item in enumerate(self.sequence(node, key)):
            here = f"{key}[{index}]"
            if isinstance(item, Scalar) and not is_null(item):
                found.append((item.text, here, item.origin))
            else:
                self.note(here, f"expected text, found {describe(item)}", item.origin)
        return found

    def text(self, node: Node | None, key: str) -> str:
        """Return a text, "" if there is none."""
        if node is None or is_null(node):
            return ""
        if isinstance(node, Scalar):
            return node.text
        self.note(key, f"expected text, found {describe(node)}", node.origin)
        return ""

    def flag(self, node: Node | None, key: str) -> bool:
        """Return a boolean, False if there is none."""
        if node is None or is_null(node):
            return False
        if isinstance(node, Scalar):
            try:
                return read_flag(node)
            except ValueError as error:
                self.note(key, f"{error}, found {describe(node)}", node.origin)
                return False
        self.note(key, f"expected true or false, found {describe(node)}", node.origin)
        return False

    def seconds(self, node: Node | None, key: str, default: float) -> float:
        """Return a duration such as `30m` in seconds."""
        if node is None or is_null(node):
            return default
        if isinstance(node, Scalar):
            try:
                value = read_seconds(node)
            except ValueError as error:
                self.note(key, f"{error}, found {describe(node)}", node.origin)
                return default
            if value >= 0:
                return value
        self.note(key, f"expected a duration such as 30m, found {describe(node)}", node.origin)
        return default
