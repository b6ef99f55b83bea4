"""Docstrings, comments and pages cite files and sections that exist in the repository."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "moorage"
FILES: Final = {
    str(path.relative_to(ROOT)): path
    for folder in ("src", "tests", "bench", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
PAGES: Final = {
    str(path.relative_to(ROOT)): path for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
PATH_IN_PAGE: Final = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.py|(?:src|tests|bench|tools|docs)/[\w./-]+)`")
URL: Final = re.compile(r"\w+://\S+")
FILE: Final = re.compile(r"(?<![\w./{}*<-])((?:[\w.-]+/)*[\w-]+\.(?:py|md))\b")
SECTION: Final = re.compile(r"(docs/reference/[\w-]+\.md), sections? ((?:[\d.]+(?:, | to | and )?)+)")
HEADING: Final = re.compile(r"^#{2,3} ([\d.]+?)\.? ", re.MULTILINE)
NOT_IN_THE_REPOSITORY: Final = re.compile(r"(?<!docs/)\breference/|\b(?:style|design)\.md\b")


def prose_of(source: str) -> str:
    """Return the docstrings (of attributes too) and comments of a module, without the URLs in them."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    expressions = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
    docstrings = [str(node.value) for node in expressions if isinstance(node, ast.Constant)]
    return URL.sub("", "\n".join(comments + docstrings))


PROSE: Final = {name: prose_of(path.read_text()) for name, path in FILES.items()}


def bases(path: Path) -> list[Path]:
    """Return the folders from which a citation in the file `path` may be written."""
    common = [path.parent, SOURCE, SOURCE.parent, ROOT / "tests", ROOT]
    if path.is_relative_to(SOURCE / "config" / "sections"):
        return [*common, ROOT / "docs"]  # rendered as docs/settings.md
    if path.is_relative_to(SOURCE):
        return [*common, SOURCE / path.relative_to(SOURCE).parts[0]]
    if path.is_relative_to(ROOT / "tests"):
        package = Path(path.relative_to(ROOT / "tests").parts[0])
        return [
            *common,
            ROOT / "tests" / package,
            SOURCE / package,
            SOURCE / path.parent.relative_to(ROOT / "tests"),
        ]
    return common


@pytest.mark.parametrize("name", FILES)
def test_cited_files_exist(name: str) -> None:
    """A reader who follows a citation to a file that was moved or never existed loses the reason for the code."""
    cited = set(FILE.findall(PROSE[name]))
    dangling = {file for file in cited if not any((base / file).exists() for base in bases(FILES[name]))}
    assert not dangling, f"{name} cites {sorted(dangling)}"
    assert not NOT_IN_THE_REPOSITORY.findall(PROSE[name]), f"{name} cites notes that are not in the repository"


@pytest.mark.parametrize("name", [name for name, prose in PROSE.items() if "docs/reference/" in prose])
def test_cited_sections_exist(name: str) -> None:
    """A page whose sections were renumbered would prove something else than the code that cites it."""
    for page, numbers in SECTION.findall(re.sub(r"\s+", " ", PROSE[name])):
        headings = set(HEADING.findall((ROOT / page).read_text()))
        for number in re.findall(r"\d+(?:\.\d+)*", numbers):
            assert number in headings, f"{name} cites section {number} of {page}"


@pytest.mark.parametrize("name", PAGES)
def test_files_in_pages_exist(name: str) -> None:
    """A page that names a moved file sends its reader to nothing."""
    cited = {file for file in PATH_IN_PAGE.findall(PAGES[name].read_text()) if "*" not in file}
    dangling = {
        file for file in cited if not any((base / file).exists() for base in (ROOT, SOURCE, ROOT / "tests"))
    }
    assert not dangling, f"{name} names {sorted(dangling)}"
