"""Finds the address of a running registry from file and variables: for `moorage health`, called every few seconds.

`load.py` takes 150 ms of CPU, most of it for the models of the settings.  This module reads only `http` of the
file, and only those variables that set `http.addr`, `http.net`, `http.tls.certificate` and `http.tls.key` to a
text.  All other cases are left to `load.py`, which reports mistakes.  So a mistake in another section of a file
that is being edited does not make a serving registry look dead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.config import yaml
from moorage.config.problems import ConfigError
from moorage.config.source import built_in, choose, tree
from moorage.config.tree import List, Map, Node, Scalar, find, is_blank, is_null

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from moorage.config.problems import Problem

__all__ = ["Listener", "listener", "listener_of_tree"]

_PLAIN: Final = {
    "REGISTRY_HTTP_ADDR": ("addr",),
    "REGISTRY_HTTP_NET": ("net",),
    "REGISTRY_HTTP_TLS_CERTIFICATE": ("tls", "certificate"),
    "REGISTRY_HTTP_TLS_KEY": ("tls", "key"),
}
_OTHERS: Final = ("REGISTRY_HTTP_ADDR", "REGISTRY_HTTP_NET", "REGISTRY_HTTP_TLS", "REGISTRY_HTTP_FILE")
"""Prefixes of all variables that concern these keys, except REGISTRY_HTTP itself."""


@dataclass(frozen=True, slots=True)
class Listener:
    """`http.addr`, `http.net`, `tls` for HTTPS; the directory and hosts of `http.tls.letsencrypt`."""

    addr: str
    net: str
    tls: bool
    acme_directory: str = ""
    acme_hosts: tuple[str, ...] = ()


def listener(path: Path | None, environ: Mapping[str, str], *, defaults: bool = False) -> Listener:
    """Return the listener of a registry that was started with the same arguments and variables.

    Raises `ConfigError`.
    """
    chosen = None if defaults else choose(path, environ)[0]
    problems: list[Problem] = []
    root = built_in(environ) if chosen is None else tree(chosen, problems, environ)
    found = None if problems else listener_of_tree(root, environ)
    if found is not None:
        return found

    from moorage.config.load import load  # noqa: PLC0415  slow, and rarely needed

    http = load(path, environ, defaults=defaults).settings.http
    acme = http.tls.letsencrypt
    return Listener(http.addr, http.net, http.tls.enabled, acme.cachefile, acme.names)


def listener_of_tree(root: Map, environ: Mapping[str, str]) -> Listener | None:
    """Return the listener if file and variables are simple, None if `load` is needed."""
    http = root.entries.get("http")
    if not isinstance(http, Map):
        return None
    over = _variables(environ)
    if over is None:
        return None
    addr, net = over.get(("addr",)) or _text(http, "addr"), over.get(("net",)) or _text(http, "net") or "tcp"
    tls = http.entries.get("tls")
    if not addr or net not in {"tcp", "unix"} or not (isinstance(tls, Map) or is_null(tls)):
        return None
    certificate = over.get(("tls", "certificate"))
    if not isinstance(tls, Map):
        return Listener(addr, net, certificate is not None)
    certificate = certificate or _text(tls, "certificate")
    acme = tls.entries.get("letsencrypt")
    if certificate is None or not (isinstance(acme, Map) or is_null(acme)):
        return None
    found = _acme(acme) if isinstance(acme, Map) else ("", ())
    if found is None:
        return None
    directory, hosts = found
    return Listener(addr, net, bool(certificate or directory), directory, hosts)


def _variables(environ: Mapping[str, str]) -> dict[tuple[str, ...], str] | None:
    """Return the texts of the variables, None if one is empty or not a simple text."""
    found = {}
    for name, value in environ.items():
        if name != "REGISTRY_HTTP" and not name.startswith(_OTHERS):
            continue
        if name not in _PLAIN:
            return None
        try:
            node, _ = yaml.read(value, name, [], lines=False)
        except ConfigError:
            return None
        if not isinstance(node, Scalar) or is_blank(node):
            return None
        found[_PLAIN[name]] = node.text
    return found


def _acme(acme: Map) -> tuple[str, tuple[str, ...]] | None:
    directory = _text(acme, "cachefile") or _text(acme, "cachedir")
    hosts: Node | None = find(acme, ("hosts",))
    if directory == "" or (directory and is_null(hosts)):
        return ("", ()) if directory == "" else None
    if directory is None or not isinstance(hosts, List):
        return None
    names = [host.text.lower() for host in hosts.items if isinstance(host, Scalar) and not is_blank(host)]
    return (directory, tuple(dict.fromkeys(names))) if names and len(names) == len(hosts.items) else None


def _text(section: Map, key: str) -> str | None:
    """Return the text at `key`, "" if missing, None if it is not a text."""
    node = section.entries.get(key)
    if node is None or is_null(node):
        return ""
    return node.text if isinstance(node, Scalar) else None
