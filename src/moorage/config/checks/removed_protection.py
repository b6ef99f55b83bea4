"""Checks that environment variables do not remove protection that the file configures, unless explicitly.

Compose and templates set variables without a value, so an empty one must not open a registry.  The settings of
the file alone are compared with the final ones.
A lost `http.secret` stays a warning (`config/environment.py`): the random one in its place is as safe.

Above: `config/load.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.config.problems import Origin, Problem
from moorage.config.tree import List, Map, Node, find, is_null

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moorage.config.model import Settings

__all__ = ["removed"]

_TLS = ("http", "tls")
_CLIENTS = ("http", "tls", "clientcas")
_DIRECTORY = ("storage", "filesystem", "rootdirectory")


def removed(before: Settings, after: Settings, root: Map, environ: Mapping[str, str]) -> list[Problem]:
    """Return an error for each protection of `before`, the file alone, that `after` lacks.

    `root` is the tree of `after`.
    """
    found: list[Problem] = []

    def report(path: tuple[str, ...], consequence: str, remedy: str) -> None:
        names = dict.fromkeys(_variables(root, path, environ))
        message = f"would switch off what the file configures, which means {consequence}; {remedy}"
        found.append(Problem(message, ".".join(path), Origin(", ".join(names))))

    if (
        before.auth.provider != "none"
        and after.auth.provider == "none"
        and not _on_purpose(root, ("auth",), environ)
    ):
        report(("auth",), "no authentication", "write REGISTRY_AUTH=none to do so")
    if before.http.tls.enabled and not after.http.tls.enabled and not _on_purpose(root, _TLS, environ):
        report(_TLS, "plain HTTP", "write REGISTRY_HTTP_TLS={} to do so")
    elif before.http.tls.clientcas and not (
        after.http.tls.clientcas or _on_purpose(root, _TLS, environ) or _on_purpose(root, _CLIENTS, environ)
    ):
        report(_CLIENTS, "clients need no certificate", "write REGISTRY_HTTP_TLS_CLIENTCAS=[] to do so")
    old, new = before.storage.filesystem, after.storage.filesystem
    if old and new and old.rootdirectory != new.rootdirectory and is_null(find(root, _DIRECTORY)):
        remedy = f"write REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY={new.rootdirectory} to do so"
        report(_DIRECTORY, f"data in {new.rootdirectory}", remedy)
    return found


def _on_purpose(root: Map, path: tuple[str, ...], environ: Mapping[str, str]) -> bool:
    """Return whether a variable has `{}`, `[]` or, for `auth`, `none` for the section."""
    node = find(root, path)
    if node is None or node.origin.source not in environ:
        return path == ("auth",) and isinstance(node, Map) and "none" in node.entries
    if isinstance(node, Map):
        return not node.entries or (path == ("auth",) and "none" in node.entries)
    return isinstance(node, List) and not node.items


def _variables(root: Map, path: tuple[str, ...], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that set a value at `path`, below it, or at a section above it."""
    here: Node = root
    for step in path:
        below = find(here, (step,))
        if below is None:
            break
        here = below
    else:
        yield from _sources(here, environ)
        return
    if here.origin.source in environ:
        yield here.origin.source


def _sources(node: Node, environ: Mapping[str, str]) -> Iterator[str]:
    if node.origin.source in environ:
        yield node.origin.source
    if isinstance(node, Map | List):
        for below in node.entries.values() if isinstance(node, Map) else node.items:
            yield from _sources(below, environ)
