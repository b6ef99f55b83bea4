"""All that a user can meet is documented: routes, error codes, commands, pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import typer

from moorage.cli import commands
from moorage.http.errors import STATUS
from moorage.http.routes import ANY, ROUTES, RouteListener

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
API: Final = (DOCS / "api.md").read_text()
PAGES: Final = {str(path.relative_to(ROOT)): path for path in sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])}


def rows(page: str, columns: int) -> list[list[str]]:
    """The cells of the page's table rows of that width."""
    lines = [line.strip().strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if len(line) == columns]


def test_every_route_is_in_the_table_of_endpoints() -> None:
    """Authors of clients read the table, not the source."""
    documented = {}
    for paths, methods, _ in rows(API, 3):
        for path in re.findall(r"`(/[^`]*)`", paths):
            documented[path] = set(methods.split(", "))
    # The spelling without its last slash is the same endpoint.
    offered = {
        route.pattern: {"any" if method == ANY else method for method in route.methods if method != "HEAD"}
        for route in ROUTES
        if route.listener is RouteListener.REGISTRY and route.pattern[-8:] != "/uploads"
    }
    assert documented == offered


def test_every_refusal_is_in_the_table_of_errors() -> None:
    """A code that a client meets and finds nowhere is a support request."""
    documented = {(int(status), code.strip("`")) for status, code, _ in rows(API, 3) if status.isdigit()}
    assert documented - {(500, "UNKNOWN")} == {(status, error.code) for error, status in STATUS.items()}


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (DOCS / "commands.md").read_text()
    documented = set(re.findall(r"`moorage ((?:[a-z]+[a-z-]* ?)+)", page))
    group = typer.main.get_command(commands.app)
    for command in names(group):
        assert any(f"{known} ".startswith(f"{command} ") for known in documented), command


def names(command: object, path: str = "") -> list[str]:
    children = getattr(command, "commands", None)
    if not children:
        return [path] if path else []
    return [name for key, child in children.items() for name in names(child, f"{path} {key}".strip())]


@pytest.mark.parametrize("name", PAGES)
def test_links_to_files_lead_somewhere(name: str) -> None:
    """README is read outside of the site, so the site's own check does not see its links."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[name].read_text()):
        if "://" not in target:
            assert (PAGES[name].parent / target).exists(), f"{name} links to {target}"


def test_every_page_is_in_a_table_of_contents() -> None:
    """A page that no list names is not found by readers."""
    listed = set()
    for name, path in PAGES.items():
        for block in re.findall(r"```\{toctree\}(.*?)```", path.read_text(), re.DOTALL):
            lines = (line.strip() for line in block.splitlines())
            folder = (ROOT / name).parent
            listed |= {(folder / f"{line}.md").resolve() for line in lines if line and not line.startswith(":")}
    pages = {path for path in DOCS.rglob("*.md") if "_build" not in path.parts}
    assert pages - {DOCS / "index.md"} == listed
