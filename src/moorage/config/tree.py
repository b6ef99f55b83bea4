"""Tree of a configuration, between YAML and settings; its scalars keep their source text.

The text is kept because the field decides how it is parsed: `secret: 0123` is "0123" for a text field and
83 for an untyped one (`scalars.py`).  The tree is mutable because environment variables change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.problems import Origin

__all__ = ["List", "Map", "Node", "Scalar", "copied", "describe", "find", "is_blank", "is_null"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value.  `quoted`: it is text, even if it looks like a number or a flag."""

    text: str
    origin: Origin
    quoted: bool = False


@dataclass(slots=True)
class List:
    """A sequence."""

    origin: Origin
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Map:
    """A mapping; `keys` has the origin of each key, `entries` its value."""

    origin: Origin
    entries: dict[str, Node] = field(default_factory=dict)
    keys: dict[str, Origin] = field(default_factory=dict)

    def put(self, key: str, value: Node, origin: Origin | None = None) -> None:
        self.entries[key] = value
        self.keys[key] = origin or value.origin

    def drop(self, key: str) -> Node | None:
        self.keys.pop(key, None)
        return self.entries.pop(key, None)

    def items(self) -> Iterator[tuple[str, Node]]:
        return iter(tuple(self.entries.items()))


Node = Scalar | List | Map


def copied(root: Map) -> Map:
    """Return a copy that shares no mapping and no list with `root`."""
    # Not copy.deepcopy, whose recursion is too deep for some trees that can be read.
    return Map(root.origin, {name: _copied(node) for name, node in root.entries.items()}, dict(root.keys))


def _copied(node: Node) -> Node:
    if isinstance(node, Map):
        return copied(node)
    return List(node.origin, [_copied(item) for item in node.items]) if isinstance(node, List) else node


def is_null(node: Node | None) -> bool:
    """Return whether a node is missing, `null`, `~` or empty."""
    return node is None or (
        isinstance(node, Scalar) and not node.quoted and node.text in {"", "~", "null", "Null", "NULL"}
    )


def is_blank(node: Node | None) -> bool:
    """Return whether `is_null` is true, or the node is an empty text in quotes."""
    return is_null(node) or (isinstance(node, Scalar) and not node.text)


def describe(node: Node) -> str:
    """Return a description of the node for messages; long text is cut, hidden text omitted."""
    match node:
        case Map():
            return "a mapping"
        case List():
            return "a list"
        case Scalar(text="", quoted=False):
            return "nothing"
        case Scalar() if node.origin.hidden:
            return "something else"
        case Scalar():
            return repr(node.text if len(node.text) <= 40 else node.text[:37] + "...")  # noqa: PLR2004  a line's part


def find(root: Node, path: tuple[str | int, ...]) -> Node | None:
    """Return the node at `path`, None if there is none."""
    node: Node | None = root
    for step in path:
        match node:
            case Map() if isinstance(step, str):
                node = node.entries.get(step)
            case List() if isinstance(step, int) and step < len(node.items):
                node = node.items[step]
            case _:
                return None
    return node
