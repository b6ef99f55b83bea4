"""No import cycles: each module can be read, typed and tested after those that it imports."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

import moorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCE: Final = Path(moorage.__file__).parent


def module_name(path: Path) -> str:
    """Return the module's dotted name below `moorage`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS: Final = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported_by(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports, for type checking and inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("moorage.") in PATHS else str(node.module) for name in submodules]
        else:
            continue
        for name in names:
            if name.startswith("moorage.") and name.removeprefix("moorage.") in PATHS:
                yield name.removeprefix("moorage.")


IMPORTS: Final = {name: frozenset(imported_by(path)) - {name} for name, path in PATHS.items()}


def cycles(graph: Mapping[str, frozenset[str]]) -> set[frozenset[str]]:
    """Return the groups of nodes of which each reaches each other."""
    reached = {node: reachable(graph, node) for node in graph}
    groups = {
        frozenset(other for other in graph if other in reached[node] and node in reached[other]) for node in graph
    }
    return {group for group in groups if len(group) > 1}


def reachable(graph: Mapping[str, frozenset[str]], start: str) -> set[str]:
    """Return the nodes that can be reached from `start` in one step or more."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(graph.get(node, ()))
    return found


def packages(parent: str) -> dict[str, frozenset[str]]:
    """Return the children of the package `parent` ("" for `moorage`), and which of them each imports."""
    graph: dict[str, set[str]] = {}
    for name, imported in IMPORTS.items():
        if (child := child_of(parent, name)) is not None:
            found = {other for each in imported if (other := child_of(parent, each)) is not None}
            graph.setdefault(child, set()).update(found - {child})
    return {child: frozenset(found) for child, found in graph.items()}


def child_of(parent: str, name: str) -> str | None:
    """Return the child of the package `parent` that contains `name`; modules count in `moorage` only."""
    prefix = f"{parent}." if parent else ""
    if not name or not name.startswith(prefix):
        return None
    child = prefix + name.removeprefix(prefix).split(".")[0]
    is_package = PATHS[child].name == "__init__.py"
    return child if is_package or not parent else None


def test_there_is_no_cycle_of_modules() -> None:
    """A module of a cycle cannot be understood alone, and one more import at run time breaks the start."""
    assert not [sorted(cycle) for cycle in cycles(IMPORTS)]


def test_there_is_no_cycle_of_packages() -> None:
    """Packages that need each other are one package in two folders."""
    parents = {name for name, path in PATHS.items() if path.name == "__init__.py"}
    found = {cycle for parent in parents for cycle in cycles(packages(parent))}
    assert not [sorted(cycle) for cycle in found]


def test_a_cycle_is_found() -> None:
    """A search that finds nothing proves nothing."""
    graph = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"}), "d": frozenset({"a"})}
    assert cycles(graph) == {frozenset({"a", "b", "c"})}
