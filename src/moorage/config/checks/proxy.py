"""Checks of `proxy`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from moorage.config.problems import Problem
from moorage.patterns import Glob

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moorage.config.model import Settings
    from moorage.config.sections.proxy import Exec, Proxy, ProxyUpstream

__all__ = ["check_proxy", "is_mirror"]

_PREFIX: Final = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII
)
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?", re.ASCII)


def is_mirror(settings: Settings) -> bool:
    """Return whether the registry has upstream registries."""
    return bool(settings.proxy.remoteurl or settings.proxy.upstreams)


def check_proxy(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of `proxy`."""
    proxy = settings.proxy
    if proxy.remoteurl and proxy.upstreams:
        yield Problem("excludes proxy.upstreams; make it an entry of that list", "proxy.remoteurl")
    if proxy.remoteurl:
        yield from _check_upstream("proxy", proxy)
    elif not proxy.upstreams and (proxy.username or proxy.password or proxy.endpoints):
        message = "has credentials or endpoints but no remoteurl: nothing is mirrored"
        yield Problem(message, "proxy", kind="warning")
    seen: dict[str, int] = {}
    for index, upstream in enumerate(proxy.upstreams):
        key = f"proxy.upstreams[{index}]"
        if upstream.remoteurl:
            yield from _check_upstream(key, upstream)
        yield from _check_names(key, upstream)
        for name in dict.fromkeys((upstream.prefix, *map(str.lower, upstream.namespaces))):
            if name in seen and seen[name] != index:
                yield Problem(
                    f"{name or 'the empty prefix'} is that of proxy.upstreams[{seen[name]}] already", key
                )
            seen.setdefault(name, index)
    yield from _patterns("proxy.local", proxy.local)
    yield from _hosts("proxy.names", proxy.names)
    if proxy.remoteurl:
        for index, job in enumerate(settings.sync.jobs):
            if job.target is None:
                message = "writes into this registry, which is only a cache (proxy.remoteurl); use proxy.upstreams"
                yield Problem(message, f"sync.jobs[{index}]")
    if is_mirror(settings) and not settings.storage.maintenance.garbagecollection.enabled:
        yield from _uncollected(proxy)


def _uncollected(proxy: Proxy) -> Iterator[Problem]:
    """Yield what removes nothing from the disk without garbage collection."""
    remedy = "set storage.maintenance.garbagecollection.enabled"
    bounds = [("proxy.maxsize", proxy.maxsize)]
    bounds += [(f"proxy.upstreams[{index}].maxsize", one.maxsize) for index, one in enumerate(proxy.upstreams)]
    for key, bound in bounds:
        if bound is not None:
            yield Problem(f"needs garbage collection, which frees the space; {remedy}", key)
    if proxy.ttl > 0:
        message = f"what has expired stays on the disk without garbage collection; {remedy}"
        yield Problem(message, "proxy.ttl", kind="warning")


def _check_names(key: str, upstream: ProxyUpstream) -> Iterator[Problem]:
    if upstream.prefix and _PREFIX.fullmatch(upstream.prefix) is None:
        yield Problem(
            "expected the beginning of repository names such as docker.io, in lower case and without a slash at "
            "either end; a host with a port belongs to namespaces",
            f"{key}.prefix",
        )
    yield from _hosts(f"{key}.namespaces", upstream.namespaces)
    yield from _patterns(f"{key}.allow", upstream.allow)
    yield from _patterns(f"{key}.deny", upstream.deny)


def _hosts(key: str, texts: Sequence[str]) -> Iterator[Problem]:
    for index, text in enumerate(texts):
        if _NAMESPACE.fullmatch(text) is None:
            yield Problem("expected a host, with a port if it needs one", f"{key}[{index}]")


def _check_upstream(key: str, upstream: Proxy | ProxyUpstream) -> Iterator[Problem]:
    yield from _check_url(f"{key}.remoteurl", upstream.remoteurl)
    for index, url in enumerate(upstream.endpoints):
        yield from _check_url(f"{key}.endpoints[{index}]", url)
    if upstream.password and not upstream.username:
        yield Problem("needs a username", f"{key}.password")
    if upstream.exec.command and upstream.username:
        yield Problem("excludes exec: credentials come from one of the two", f"{key}.username")
    yield from _check_helper(f"{key}.exec", upstream.exec)


def _check_helper(key: str, helper: Exec) -> Iterator[Problem]:
    if helper.command != helper.command.strip() or " " in helper.command.strip():
        yield Problem("expected the name or path of one program, without arguments", f"{key}.command")


def _check_url(key: str, url: str) -> Iterator[Problem]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        yield Problem("expected a root URL such as https://registry-1.docker.io", key)
        return
    if parts.scheme not in {"http", "https"}:
        found = f"the scheme {parts.scheme!a}" if "://" in url else "no scheme"
        yield Problem(f"expected a URL that begins with https:// or http://, found {found}", key)
    elif not parts.hostname or port == 0 or parts.query or parts.fragment:
        yield Problem("expected a root URL such as https://registry-1.docker.io", key)
    elif parts.path.strip("/"):
        yield Problem("expected the root URL of a registry, without a path; /v2/ is added", key)
    elif parts.username is not None or parts.password is not None:
        yield Problem("credentials belong to username and password, not into the URL", key)


def _patterns(key: str, texts: Sequence[str]) -> Iterator[Problem]:
    for index, text in enumerate(texts):
        try:
            Glob.parse(text)
        except ValueError as error:
            yield Problem(str(error), f"{key}[{index}]")
