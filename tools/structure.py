"""Print the size and the shape of the source tree: files, functions, import cycles, the language of docstrings.

    python3 dev.py structure [ROOT]       ROOT is a checkout, by default this one

Imports inside functions and for type checking count.  A room is a package or module directly below src/moorage.
An arrow is one room that imports another.  A cycle is a set of modules, or rooms, that import each other,
directly or through others.  Words are counted per 1,000 words of docstrings.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["main"]

_LONG_FUNCTION_LINES: Final = 60
_WORDS: Final = {
    "told, tells, said, says": "told|tells|said|says",
    "whoever, whatever, whichever": "whoever|whatever|whichever",
    "nobody, somebody, anybody, everybody": "nobody|somebody|anybody|everybody",
    "lies, stands": "lies|stands",
}
_OPENING: Final = re.compile(r"(What|Who|Whoever|Whether|How)\b")

Graph = dict[str, set[str]]


@dataclass(frozen=True, slots=True)
class Module:
    """A parsed source file; `name` is dotted, below the package."""

    name: str
    lines: int
    tree: ast.Module


def main(arguments: list[str]) -> int:
    """Print the report on a checkout; return the exit status."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[1]
    package = root / "src" / "moorage"
    modules = [_read(package, path) for path in sorted(package.rglob("*.py"))]
    if not modules:
        print(f"{package} holds no Python file", file=sys.stderr)
        return 1
    imports = _imports(modules)
    for line in (*_size(modules), *_shape(imports), *_language(modules)):
        print(line)
    return 0


def _read(package: Path, path: Path) -> Module:
    parts = path.relative_to(package).with_suffix("").parts
    text = path.read_text(encoding="utf-8")
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, text.count("\n"), ast.parse(text))


def _size(modules: list[Module]) -> Iterator[str]:
    lines = [module.lines for module in modules]
    largest = max(modules, key=lambda module: module.lines)
    yield f"lines: {sum(lines)} in {len(modules)} files"
    yield f"lines per file: median {statistics.median(lines):g}, largest {largest.lines} ({largest.name})"
    functions = [(end - start + 1, name) for start, end, name in _functions(modules)]
    sizes = [size for size, _ in functions]
    yield f"functions: {len(functions)}, median {statistics.median(sizes):g} lines, largest {max(sizes)}"
    long = sorted(((size, name) for size, name in functions if size > _LONG_FUNCTION_LINES), reverse=True)
    yield f"functions over {_LONG_FUNCTION_LINES} lines: {len(long)}"
    yield from (f"    {size} {name}" for size, name in long)


def _functions(modules: list[Module]) -> Iterator[tuple[int, int, str]]:
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.lineno, node.end_lineno or node.lineno, f"{module.name}.{node.name}"


def _imports(modules: list[Module]) -> Graph:
    known = {module.name for module in modules}
    return {module.name: set(_imported(module, known)) - {module.name, ""} for module in modules}


def _imported(module: Module, known: set[str]) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (name for alias in node.names if (name := _below(alias.name)) in known)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "moorage":
            source = _below(node.module or "")
            for alias in node.names:
                submodule = f"{source}.{alias.name}".lstrip(".")
                yield submodule if submodule in known else source


def _below(name: str) -> str:
    head, _, rest = name.partition(".")
    return rest if head == "moorage" else name


def _shape(imports: Graph) -> Iterator[str]:
    cycles = _cycles(imports)
    yield f"import cycles between modules: {len(cycles)}"
    yield from (f"    {' '.join(cycle)}" for cycle in cycles)
    rooms: Graph = {}
    for module, names in imports.items():
        room = module.split(".")[0]
        if room:
            rooms.setdefault(room, set()).update(name.split(".")[0] for name in names)
            rooms[room].discard(room)
    cycles = _cycles(rooms)
    yield f"rooms: {len(rooms)}, arrows between them: {sum(map(len, rooms.values()))}"
    yield f"import cycles between rooms: {len(cycles)}"
    yield from (f"    {' '.join(cycle)}" for cycle in cycles)


def _cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node."""
    reached = {node: _reachable(graph, node) for node in graph}
    found = {
        frozenset(other for other in reached[node] if node in reached.get(other, set()))
        for node in graph
        if node in reached[node]
    }
    return sorted(sorted(cycle) for cycle in found)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for node in graph.get(waiting.pop(), set()) - reached:
            reached.add(node)
            waiting.append(node)
    return reached


def _language(modules: list[Module]) -> Iterator[str]:
    texts = [text for module in modules for text in _docstrings(module.tree)]
    words = sum(len(text.split()) for text in texts)
    yield f"docstrings: {len(texts)}, {words} words; per 1,000 words:"
    for label, pattern in _WORDS.items():
        count = sum(len(re.findall(rf"\b(?:{pattern})\b", text, re.IGNORECASE)) for text in texts)
        yield f"    {label}: {1000 * count / words:.1f} ({count})"
    opening = sum(_OPENING.match(text) is not None for text in texts)
    yield f"docstrings that open with What, Who, Whoever, Whether or How: {opening / len(texts):.1%} ({opening})"


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of modules, classes and functions, and those below assignments."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
