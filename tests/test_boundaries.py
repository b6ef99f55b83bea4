"""The house's walls: what may import what, and that no route is without an access."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import moorage
from moorage.http import routes
from moorage.http.routes import Access, RouteListener

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(moorage.__file__).parent

SHARED: Final = {
    "backoff",
    "caches",
    "coalescing",
    "concurrency",
    "extras",
    "patterns",
    "reloading",
    "semver",
    "shielding",
    "startup",
    "system_errors",
    "via",
}
"""Modules that every room may import; they import each other only."""

BELOW: Final = {
    "acme": set[str](),
    "auth": {"config", "errors", "types"},
    "backoff": set[str](),
    "bundle": {"errors", "registry", "replication", "types"},
    "caches": set[str](),
    "cache": {"registry", "types"},
    "cli": {
        "acme",
        "auth",
        "bundle",
        "config",
        "copy",
        "errors",
        "fsck",
        "gc",
        "migration",
        "proxy",
        "quota",
        "redaction",
        "registry",
        "replication",
        "retention",
        "server",
        "storage",
        "types",
        "upstream",
        "wiring",
    },
    "coalescing": set[str](),
    "concurrency": set[str](),
    "config": {"redaction"},
    "copy": {"errors", "registry", "storage", "types"},
    "errors": set[str](),
    "extras": set[str](),
    "fsck": {"errors", "registry", "storage", "types"},
    "gc": {"errors", "registry", "storage", "types"},
    "health_checks": {"config"},
    "http": {"auth", "errors", "health_checks", "logs", "registry", "types"},
    "logs": {"config", "redaction"},
    "metrics": {"storage"},
    "migration": {"config", "errors", "fsck", "registry", "storage", "types"},
    "proxy": {"errors", "registry", "storage", "types", "upstream"},
    "quota": {"errors", "registry", "storage", "types"},
    "patterns": set[str](),
    "redaction": set[str](),
    "reloading": set[str](),
    "registry": {"storage", "types", "errors"},
    "replication": {"errors", "registry", "types", "upstream"},
    "retention": {"errors", "registry", "storage", "types"},
    "server": {
        "acme",
        "config",
        "errors",
        "health_checks",
        "http",
        "logs",
        "metrics",
        "storage",
        "tracing",
    },
    "semver": set[str](),
    "shielding": set[str](),
    "startup": set[str](),
    "system_errors": set[str](),
    "storage": set[str](),
    "testing": {"errors", "registry", "storage", "types"},
    "tracing": {"logs"},
    "types": {"errors"},
    "upstream": {"errors", "redaction", "registry", "types"},
    "wiring": {
        "acme",
        "auth",
        "cache",
        "config",
        "errors",
        "gc",
        "health_checks",
        "http",
        "logs",
        "metrics",
        "proxy",
        "quota",
        "registry",
        "replication",
        "retention",
        "server",
        "storage",
        "types",
        "upstream",
    },
    "via": set[str](),
}
"""Each room, and the rooms whose modules it may import; those of its own it always may."""


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> set[str]:
    """The moorage modules that a file names, those for type checking and inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a module stands"
            assert node.module is not None
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if is_module(name)} or {node.module}
    return {name for name in found if name.split(".")[0] == "moorage"}


def is_module(name: str) -> bool:
    path = SOURCE.joinpath(*name.split(".")[1:])
    return name.startswith("moorage.") and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


FILES: Final = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}


def test_every_room_has_its_rule() -> None:
    """A new room is a decision, not an accident."""
    rooms = {Path(name).parts[0].removesuffix(".py") for name in FILES} - {"__init__", "__main__"}
    assert rooms == BELOW.keys()


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name: str) -> None:
    """A driver that knows tags, or a rule about images that knows headers, cannot be used anywhere else."""
    room = Path(name).parts[0].removesuffix(".py")
    if room in {"__init__", "__main__"}:
        return
    wrong = {module for module in imports(FILES[name]) if room_of(module) not in BELOW[room] | SHARED | {room, ""}}
    assert not wrong, f"{room}/ may import {sorted(BELOW[room])} only"


BUILT: Final = re.compile(r"Stored[A-Z]\w*|[A-Z]\w*(Driver|Authority|Objects)|create_app")
"""The parts of a registry: constructors and functions that a room builds for another one."""

UNSERVED: Final = {room: {"StoredManifests"} for room in ("cli", "copy", "fsck")}
"""By room: what it builds over a driver that serves no clients, with the defaults."""


def test_only_wiring_joins_rooms() -> None:
    """Parts that are built in several places get different options, and a setting is honoured by some of them."""
    homes = {name: room for name, room in definitions() if BUILT.fullmatch(name)}
    assert {"FilesystemDriver", "ObjectDriver", "LocalAuthority", "StoredRegistry", "create_app"} <= homes.keys()
    built = {
        f"{name} builds {called}"
        for name, path in FILES.items()
        for called in calls(path) & homes.keys() - UNSERVED.get(room_of_file(name), set())
        if room_of_file(name) not in {homes[called], "wiring", "testing"}
    }
    assert not built, "call a function of wiring/ instead"


def definitions() -> Iterator[tuple[str, str]]:
    """Yield the classes and functions of all modules, with their rooms."""
    for name, path in FILES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                yield node.name, room_of_file(name)


def calls(path: Path) -> set[str]:
    """Return the names that a file calls."""
    called = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    names = {getattr(func, "id", None) or getattr(func, "attr", None) for func in called}
    return {name for name in names if name is not None}


def room_of_file(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def test_only_one_file_depends_on_the_parser() -> None:
    """The grammar of requests is held in one place: a second parser would read some requests differently."""
    users = {name for name, path in FILES.items() if "httptools" in imported_roots(path)}
    assert users == {"server/http1/request_head.py"}


OWNERS: Final = {
    "blob_data": "blob_store.py",
    "torn_mark": "blob_store.py",
    "layer_link": "links.py",
    "revision_link": "links.py",
    "tag": "tags.py",
    "tag_link": "tags.py",
    "tag_history_link": "tags.py",
    "tags": "tags.py",
    "deleted_mark": "tags.py",
}
"""Functions of `registry/layout.py` for keys that belong to one module of `registry/`."""

RAW_LINKS: Final = ("fsck/", "copy/", "gc/")
"""Tools that examine the links themselves, broken ones included, and name their keys in reports."""
COLLECTOR: Final = "gc/"
"""Decides what is dead by the objects themselves, and removes them."""


@pytest.mark.parametrize("key", OWNERS)
def test_keys_are_built_by_their_owner(key: str) -> None:
    """A link to bytes that are about to be removed is made wherever a module decides by itself that they exist."""
    users = {
        name for name, path in FILES.items() if key in used_of_layout(path) and not name.startswith(COLLECTOR)
    }
    if OWNERS[key] != "blob_store.py":
        users = {name for name in users if not name.startswith(RAW_LINKS)}
    assert users == {f"registry/{OWNERS[key]}"}


def used_of_layout(path: Path) -> set[str]:
    """The names that a file takes from `registry/layout.py`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "layout":
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "moorage.registry.layout":
            found |= {alias.name for alias in node.names}
    return found


def imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots.add(node.module.split(".")[0])
    return roots


def test_every_route_names_the_access_it_needs() -> None:
    """A route without one, or with that of another block, would be open to clients without credentials."""
    blocks = {
        Access.PUBLIC: routes.PUBLIC,
        Access.PROBE: routes.PROBES,
        Access.DEBUG: routes.DEBUG,
    }
    assert {route.pattern for route in routes.PUBLIC} == {"/", "/token"}
    assert {route.pattern for route in routes.PROBES} == {"/livez", "/readyz"}
    for route in routes.ROUTES:
        assert (route.listener is RouteListener.DEBUG) == (route in routes.DEBUG), route.pattern
        for method, (handler, access) in route.methods.items():
            assert callable(handler)
            assert isinstance(access, Access), f"{method} {route.pattern}"
            assert route in blocks.get(access, routes.API), f"{method} {route.pattern}"
            if route in routes.API:
                assert route.pattern.startswith("/v2/")
                if method in {"PUT", "POST", "PATCH"}:
                    assert access is Access.PUSH, f"{method} {route.pattern}"


def test_head_is_offered_wherever_get_is() -> None:
    """Docker asks for tags by HEAD, containerd for everything."""
    for route in routes.ROUTES:
        assert ("HEAD" in route.methods) == ("GET" in route.methods), route.pattern
