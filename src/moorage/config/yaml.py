"""Parser of the YAML dialect of CNCF Distribution's configuration.

The dialect is that of Go's yaml.v2: YAML 1.1 with anchors, aliases and merges; scalars keep their text until their
field is known.  One difference: yaml.v2 silently uses the last of duplicate keys and the first of several
documents, so that a second `auth:` or a stray `---` disables authentication; both are errors here.
PyYAML's composer parses the grammar; its types of scalars (12:30 is 750, 1e3 is text) are not used.

Source: docs/reference/configuration.md, section 1.2; go-yaml v2.4.0 decode.go, and
`docker-registry` 2.8.2 run on examples.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from moorage.config.problems import ConfigError, Origin, Problem
from moorage.config.tree import List, Map, Node, Scalar

__all__ = ["read"]

_NODES_LIMIT: Final = 100_000
"""Nodes after aliases are expanded; a handful of nested aliases could otherwise fill the memory."""

_PLAIN: Final = "plain"
_TEXT: Final = "tag:yaml.org,2002:str"
_BINARY: Final = "tag:yaml.org,2002:binary"
_CORE: Final = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null", "timestamp"))


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to the node graph; plain scalars are marked instead of resolved to a type."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else _TEXT
        return super().resolve(kind, value, implicit)  # type: ignore[no-any-return,no-untyped-call]  # as typeshed has it


def read(
    text: str, source: str, problems: list[Problem], *, lines: bool = True, hidden: bool = False
) -> tuple[Node | None, int]:
    """Return the first document of `text` as a tree, and the index where the document's last token ended.

    None for an empty document.  `lines` False leaves line numbers out of the origins (a variable has one);
    `hidden`: no message shows a value.
    Duplicate keys and further documents are appended to `problems` as errors; the tree has the last of duplicates.
    Raises `ConfigError` when the text is not YAML.
    """
    try:
        loader = _Loader(text)
        if not loader.check_node():
            return None, 0
        root = loader.get_node()
        assert root is not None
        conversion = _Conversion(source, problems, lines=lines, hidden=hidden)
        tree = conversion.node(root)
        while loader.check_node():
            if conversion.refuse_document(loader.get_node()):
                break
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None and lines else None
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([Problem(f"not YAML: {what}", origin=Origin(source, line))]) from error
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise ConfigError([Problem(f"not YAML: {what}", origin=Origin(source))]) from error
    except RecursionError as error:
        raise ConfigError([Problem("nested too deeply", origin=Origin(source))]) from error
    return tree, root.end_mark.index


class _Conversion:
    """Converts one document's node graph to a tree: aliases are copied, merges applied."""

    def __init__(self, source: str, problems: list[Problem], *, lines: bool, hidden: bool) -> None:
        self._source = source
        self._problems = problems
        self._lines = lines
        self._hidden = hidden
        self._count = 0
        self._open: set[int] = set()
        self._path: list[str] = []
        self._reported: set[int] = set()

    def _origin(self, node: yaml.Node) -> Origin:
        return Origin(self._source, node.start_mark.line + 1 if self._lines else None, self._hidden)

    def _fail(self, node: yaml.Node, message: str) -> ConfigError:
        return ConfigError([Problem(message, origin=self._origin(node))])

    def refuse_document(self, node: yaml.Node | None) -> bool:
        """Report a document after the first one, unless it is empty.  Return whether it was reported."""
        if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
            return False
        message = "another YAML document begins here (---) and would be ignored; remove the separator"
        self._problems.append(Problem(message, origin=self._origin(node)))
        return True

    def node(self, node: yaml.Node) -> Node:
        self._count += 1
        if self._count > _NODES_LIMIT:
            raise self._fail(node, f"more than {_NODES_LIMIT} values once aliases are expanded")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self._fail(node, "an alias within its own value")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return List(self._origin(node), [self._below(f"[{n}]", item) for n, item in enumerate(node.value)])
            assert isinstance(node, yaml.MappingNode)
            return self._map(node)
        finally:
            self._open.discard(id(node))

    def _below(self, step: str, node: yaml.Node) -> Node:
        self._path.append(step)
        try:
            return self.node(node)
        finally:
            self._path.pop()

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        if node.tag == _BINARY:
            try:
                text = base64.b64decode(node.value).decode()
            except (binascii.Error, ValueError) as error:
                raise self._fail(node, "expected base64 of UTF-8 text as !!binary") from error
            return Scalar(text, self._origin(node), quoted=True)
        # yaml.v2 ignores other tags: `!foo x` is the text x.
        return Scalar(node.value, self._origin(node), quoted=node.tag != _PLAIN and node.tag not in _CORE)

    def _map(self, node: yaml.MappingNode) -> Map:
        result = Map(self._origin(node))
        merged: list[Map] = []
        seen: dict[str, yaml.ScalarNode] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._fail(key, "expected a scalar as key")
            name = self._scalar(key).text  # !!binary keys are decoded
            self._note_duplicate(key, name, seen.setdefault(name, key))
            if name == "<<" and key.tag == _PLAIN:
                merged = [*self._merged(value), *merged]
            else:
                result.entries.pop(name, None)  # so that the last of duplicates has its own position
                result.put(name, self._below(name, value), self._origin(key))
        for other in merged:
            for inner, entry in other.items():
                if inner not in result.entries:
                    result.put(inner, entry, other.keys[inner])
        return result

    def _note_duplicate(self, key: yaml.ScalarNode, name: str, first: yaml.ScalarNode) -> None:
        """Report a duplicate key; once, even if several aliases refer to the mapping."""
        if key is first or id(key) in self._reported:
            return
        self._reported.add(id(key))
        where = f"; the first is on line {first.start_mark.line + 1}" if self._lines else ""
        dotted = ".".join((*self._path, name)).replace(".[", "[")
        self._problems.append(Problem(f"duplicate key{where}; remove one", dotted, self._origin(key)))

    def _merged(self, node: yaml.Node) -> list[Map]:
        """Return the mappings that `<<` names, in order of precedence."""
        candidates = node.value if isinstance(node, yaml.SequenceNode) else [node]
        maps: list[Map] = []
        for candidate in candidates:
            found = self.node(candidate)
            if not isinstance(found, Map):
                raise self._fail(candidate, "<< merges mappings only")
            maps.append(found)
        return maps
