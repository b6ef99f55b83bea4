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

OPENINGS: Final[dict[str, int]] = {
    "acme": 9, "auth": 44, "cache": 4, "caches": 1, "cli": 9, "copy": 5, "errors": 2, "fsck": 6,
    "health_checks": 1, "http": 1, "logs": 4, "metrics": 5, "migration": 1, "redaction": 1, "registry": 7,
    "server": 6, "shielding": 1, "storage": 45, "testing": 9, "tracing": 3, "wiring": 8,
}  # fmt: skip
OCCURRENCES: Final[dict[str, int]] = {
    "acme": 18, "auth": 87, "cache": 9, "caches": 2, "cli": 6, "coalescing": 5, "concurrency": 1,
    "copy": 15, "errors": 10, "fsck": 14, "health_checks": 1, "http": 6, "logs": 13, "metrics": 8,
    "redaction": 1, "registry": 31, "server": 11, "shielding": 2, "storage": 83, "testing": 14,
    "tracing": 3, "types": 1, "wiring": 5,
}  # fmt: skip
"""Remaining ones in each package (or module); the numbers are only lowered."""

SAME_NAME: Final[dict[str, int]] = {
    "Access": 2, "AccessLog": 2, "Answer": 2, "Clients": 2, "Context": 2, "Cors": 2, "Digest": 2,
    "Failed": 2, "Failure": 3, "Foreign": 2, "Found": 2, "Guard": 2, "Health": 2, "Identity": 2,
    "Issued": 2, "Keys": 2, "MissingLibrary": 4, "Options": 2, "Place": 5, "Policy": 2, "Redirect": 2,
    "RedisTls": 2, "Refused": 2, "Rule": 2, "Server": 2, "Signer": 2, "Tls": 2, "Unsupported": 2,
    "Uploads": 2, "Wanted": 2, "Watcher": 2, "_Failed": 2, "_File": 3, "_Large": 3, "_Object": 2,
    "_Upload": 2, "_Walk": 2, "_Watcher": 2,
}  # fmt: skip
"""Class names with more than one definition, and how many: settings beside the options made of them, above all."""


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


def more(found: Counter[str], allowed: dict[str, int]) -> dict[str, int]:
    """Return what exceeds its allowance."""
    return {name: count for name, count in sorted(found.items()) if count > allowed.get(name, 0)}


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    """A docstring that opens with a question word describes the author's thought, not the object."""
    found = Counter(room for room, tree in trees() for text in documented(tree) if OPENING.match(text))
    assert not more(found, OPENINGS)


def test_docstrings_are_in_the_field_s_words() -> None:
    """A reader must not have to learn a private vocabulary."""
    found: Counter[str] = Counter()
    for room, tree in trees():
        found[room] += sum(len(WORDS.findall(text)) for text in strings(tree))
    assert not more(found, OCCURRENCES)


def test_a_class_name_has_one_meaning() -> None:
    """Two classes of one name are confused in imports, in tracebacks and in conversation."""
    found = Counter(node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not more(Counter({name: count for name, count in found.items() if count > 1}), SAME_NAME)
