"""Older spellings, changed into today's in the tree, so that nobody after this knows them.

Most are declared in the models (`setting(..., instead="log.level")`); what needs more than a new place is
here.  Everything changed is told in a warning.

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

__all__ = ["chosen", "modernise", "spread", "spread_alias"]


def spread(root: Map) -> None:
    """`storage: inmemory` becomes `storage: {inmemory: {}}`, `auth: none` likewise; before variables apply."""
    for name in ("storage", "auth"):
        node = root.entries.get(name)
        if isinstance(node, Scalar) and not is_null(node):
            node = root.entries[name] = chosen(name, node)
        if isinstance(node, Map):
            spread_alias(node)


def spread_alias(storage: Map) -> None:
    """`s3aws` is another name of `s3`.  Beside `s3` it stays, to be refused as a second driver."""
    if "s3aws" in storage.entries and "s3" not in storage.entries:
        origin = storage.keys["s3aws"]
        node = storage.drop("s3aws")
        assert node is not None
        storage.put("s3", node, origin)


def chosen(section: str, word: Scalar) -> Map:
    """The mapping that a driver's or provider's bare name stands for; `None` is `none` for `auth`."""
    text = "none" if section == "auth" and word.text.lower() == "none" else word.text
    result = Map(word.origin)
    result.put(text, Map(word.origin))
    return result


def modernise(root: Map, model: type[Section]) -> list[Problem]:
    """Change every older spelling below `root`; the warnings about it."""
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
            continue  # an older mapping whose keys have moved one by one
        target = tuple(key.instead.split("."))
        old, new = ".".join((*path, name)), key.instead
        if find(root, target) is not None and not is_null(find(root, target)):
            problems.append(Problem(f"has no effect beside {new}", old, origin, "warning"))
            continue
        if name == "addr":
            node = List(node.origin, [node])
        _put(root, target, node)
        problems.append(Problem(f"is now spelt {new}", old, origin, "warning"))


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
    """`auth: {None: }` is `none`, in any case."""
    auth = root.entries.get("auth")
    if isinstance(auth, Map):
        for name, node in auth.items():
            if name.lower() == "none" and name != "none":
                origin = auth.keys[name]
                auth.drop(name)
                auth.put("none", node, origin)


def _validation(root: Map, problems: list[Problem]) -> None:
    """`validation.enabled: true` wins over `disabled`."""
    validation = root.entries.get("validation")
    if not isinstance(validation, Map):
        return
    node = validation.entries.get("enabled")
    if not isinstance(node, Scalar) or is_null(node):
        return
    try:
        enabled = read_flag(node)
    except ValueError:
        return  # said when the tree is read
    origin = validation.keys["enabled"]
    problems.append(Problem("is deprecated; leave it out", "validation.enabled", origin, "warning"))
    validation.drop("enabled")
    if enabled:
        validation.put("disabled", Scalar("false", node.origin))


def _minimum_tls(root: Map, problems: list[Problem]) -> None:
    """2.8 took TLS 1.0 and 1.1; nobody should be turned away at start for having allowed them."""
    tls = find(root, ("http", "tls"))
    node = find(root, ("http", "tls", "minimumtls"))
    if isinstance(tls, Map) and isinstance(node, Scalar) and node.text in {"tls1.0", "tls1.1"}:
        tls.put("minimumtls", Scalar("tls1.2", node.origin))
        problems.append(
            Problem(
                f"{node.text} is no longer spoken; tls1.2 is used", "http.tls.minimumtls", node.origin, "warning"
            )
        )


def _host(root: Map, problems: list[Problem]) -> None:
    """The reference takes no notice of a `host` without scheme; many files have one."""
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
    """Our own name for what the reference calls a file: `cachedir` is `cachefile`."""
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
