"""Replaces deprecated keys and values in the tree by the current ones, with a warning for each.

Most are declared in the models (`setting(..., instead="log.level")`); those that need more than another path are
implemented here.

Source: docs/reference/configuration.md, sections 3, 9, 11, 14 and 16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moorage.config.problems import Problem
from moorage.config.scalars import read_flag
from moorage.config.schema import SectionOf, keys_of
from moorage.config.tree import List, Map, Node, Scalar, find, is_null

if TYPE_CHECKING:
    from moorage.config.sections.base import Section

__all__ = ["expand_short_forms", "mapping_for", "rename_s3aws", "replace_deprecated"]


def expand_short_forms(root: Map) -> None:
    """Expand `storage: inmemory` to `storage: {inmemory: {}}`, `auth: none` likewise; before variables apply."""
    for name in ("storage", "auth"):
        node = root.entries.get(name)
        if isinstance(node, Scalar) and not is_null(node):
            node = root.entries[name] = mapping_for(name, node)
        if isinstance(node, Map):
            rename_s3aws(node)


def rename_s3aws(storage: Map) -> None:
    """Rename `s3aws` to `s3`.  Beside `s3` it is kept, to be refused as a second driver."""
    if "s3aws" in storage.entries and "s3" not in storage.entries:
        origin = storage.keys["s3aws"]
        node = storage.drop("s3aws")
        assert node is not None
        storage.put("s3", node, origin)


def mapping_for(section: str, word: Scalar) -> Map:
    """Return the mapping for the bare name of a driver or provider; `None` is `none` for `auth`."""
    text = "none" if section == "auth" and word.text.lower() == "none" else word.text
    result = Map(word.origin)
    result.put(text, Map(word.origin))
    return result


def replace_deprecated(root: Map, model: type[Section]) -> list[Problem]:
    """Replace all deprecated keys below `root`; return the warnings."""
    problems: list[Problem] = []
    _move(root, root, model, (), problems)
    _auth_case(root)
    _validation(root, problems)
    _minimum_tls(root, problems)
    _host(root, problems)
    _cache_directory(root, problems)
    return problems


def _move(root: Map, here: Map, model: type[Section], path: tuple[str, ...], problems: list[Problem]) -> None:
    for name, key in keys_of(model).items():
        node = here.entries.get(name)
        if node is None:
            continue
        if isinstance(node, Map) and isinstance(key.shape, SectionOf):
            _move(root, node, key.shape.model, (*path, name), problems)
        if key.instead is None or key.instead in {"validation.disabled", "storage.s3"}:
            continue
        origin = here.keys[name]
        here.drop(name)
        if isinstance(key.shape, SectionOf):
            continue  # a deprecated section whose keys have been moved one by one
        target = tuple(key.instead.split("."))
        old, new = ".".join((*path, name)), key.instead
        if find(root, target) is not None and not is_null(find(root, target)):
            problems.append(Problem(f"has no effect beside {new}", old, origin, "warning"))
            continue
        if name == "addr":
            node = List(node.origin, [node])
        _put(root, target, node)
        problems.append(Problem(f"is deprecated; use {new}", old, origin, "warning"))


def _put(root: Map, path: tuple[str, ...], node: Node) -> None:
    here = root
    for step in path[:-1]:
        below = here.entries.get(step)
        if not isinstance(below, Map):
            below = Map(node.origin)
            here.put(step, below)
        here = below
    here.put(path[-1], node)


def _auth_case(root: Map) -> None:
    """Rename `None` in `auth`, in any case, to `none`."""
    auth = root.entries.get("auth")
    if isinstance(auth, Map):
        for name, node in auth.items():
            if name.lower() == "none" and name != "none":
                origin = auth.keys[name]
                auth.drop(name)
                auth.put("none", node, origin)


def _validation(root: Map, problems: list[Problem]) -> None:
    """Replace `validation.enabled`; true takes precedence over `disabled`."""
    validation = root.entries.get("validation")
    if not isinstance(validation, Map):
        return
    node = validation.entries.get("enabled")
    if not isinstance(node, Scalar) or is_null(node):
        return
    try:
        enabled = read_flag(node)
    except ValueError:
        return  # reported by `build.py`
    origin = validation.keys["enabled"]
    problems.append(Problem("is deprecated; leave it out", "validation.enabled", origin, "warning"))
    validation.drop("enabled")
    if enabled:
        validation.put("disabled", Scalar("false", node.origin))


def _minimum_tls(root: Map, problems: list[Problem]) -> None:
    """Raise TLS 1.0 and 1.1, which 2.8 accepted, to TLS 1.2: such a file still starts."""
    tls = find(root, ("http", "tls"))
    node = find(root, ("http", "tls", "minimumtls"))
    if isinstance(tls, Map) and isinstance(node, Scalar) and node.text in {"tls1.0", "tls1.1"}:
        tls.put("minimumtls", Scalar("tls1.2", node.origin))
        problems.append(
            Problem(
                f"{node.text} is no longer supported; tls1.2 is used",
                "http.tls.minimumtls",
                node.origin,
                "warning",
            )
        )


def _host(root: Map, problems: list[Problem]) -> None:
    """Remove a `host` without scheme: CNCF Distribution ignores it, and many files have one."""
    http = root.entries.get("http")
    node = find(root, ("http", "host"))
    if not isinstance(http, Map) or not isinstance(node, Scalar) or is_null(node):
        return
    try:
        parts = urlsplit(node.text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        http.drop("host")
        message = "has no effect: expected a URL with scheme and host, such as https://registry.example.com"
        problems.append(Problem(message, "http.host", node.origin, "warning"))


def _cache_directory(root: Map, problems: list[Problem]) -> None:
    """Rename `cachedir` to `cachefile`, which is a directory in spite of its name."""
    acme = find(root, ("http", "tls", "letsencrypt"))
    if not isinstance(acme, Map):
        return
    node, file = acme.entries.get("cachedir"), acme.entries.get("cachefile")
    if not isinstance(node, Scalar) or is_null(node):
        return
    origin = acme.keys["cachedir"]
    if isinstance(file, Scalar) and file.text not in {"", node.text}:
        problems.append(
            Problem("names another directory than cachefile; remove one", "http.tls.letsencrypt.cachedir", origin)
        )
        return
    acme.drop("cachedir")
    acme.put("cachefile", node, origin)
