"""Docstrings use the words of the field, and a class name has one meaning (CONTRIBUTING.md, "Style in short")."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import moorage

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(moorage.__file__).parent
OPENING: Final = re.compile(r"(What|Who|Whether|Whoever|How)\b")
WORDS: Final = re.compile(
    r"\b(told|tells|said|says|who(?:m)?ever|whatever|whichever|nobody|somebody|anybody|everybody)\b", re.IGNORECASE
)
"""Programs return, raise and report; clients, callers and operators have names."""

SAME_NAME: Final = {"Uploads"}
"""Public class names with two definitions: families that have the same name in each room."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield the package (or module) below `moorage` of each file, and its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).parts[0].removesuffix(".py"), ast.parse(path.read_text())


def documented(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def strings(tree: ast.Module) -> Iterator[str]:
    """Yield all docstrings, those of attributes and constants too."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    """A docstring that opens with a question word describes the author's thought, not the object."""
    assert not [(room, text) for room, tree in trees() for text in documented(tree) if OPENING.match(text)]


def test_docstrings_are_in_the_field_s_words() -> None:
    """A reader must not have to learn a private vocabulary."""
    assert not [(room, word) for room, tree in trees() for text in strings(tree) for word in WORDS.findall(text)]


def test_a_class_name_has_one_meaning() -> None:
    """Two classes of one name are confused in imports, in tracebacks and in conversation."""
    found = Counter(node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert {name for name, count in found.items() if count > 1 and not name.startswith("_")} == SAME_NAME
