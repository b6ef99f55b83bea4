"""Pull-through cache: settings become the upstream registries, the spool and the registry in front of the store.

`proxy.remoteurl` is one upstream registry without a prefix; `proxy.upstreams` are several.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from moorage import extras
from moorage.config.checks.proxy import is_mirror
from moorage.config.problems import Problem
from moorage.patterns import Glob
from moorage.startup import StartupError
from moorage.wiring.cache_directory import cache_file
from moorage.wiring.sync_check import certificates_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorage.config.model import Settings
    from moorage.config.sections.proxy import Exec, Proxy, ProxyUpstream
    from moorage.proxy.eviction import MirrorLimits
    from moorage.proxy.registry import MirrorRegistry
    from moorage.proxy.upstreams import Upstream, UpstreamOptions, Upstreams
    from moorage.registry.interface import Registry
    from moorage.registry.mirrored import MirroredContent
    from moorage.types import RepoName
    from moorage.upstream.credentials import CredentialSource

__all__ = [
    "CacheLimits",
    "cache_limits",
    "check",
    "is_mirror",
    "make_mirror",
    "make_upstreams",
    "namespaces",
    "spool_directory",
]

_CONNECTIONS: Final = 1024
"""Of a worker to an endpoint: each download in progress has one."""
_DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


def check(settings: Settings) -> list[Problem]:
    """Return the problems of files and programs that a mirror needs.

    Raises StartupError without its library, or without a directory for downloads.
    """
    if not is_mirror(settings):
        return []
    extras.load("mirror", "proxy", "aiohttp")
    spool_directory(settings)
    proxy = settings.proxy
    sections: list[tuple[str, Proxy | ProxyUpstream]] = [("proxy", proxy)]
    sections += [(f"proxy.upstreams[{index}]", one) for index, one in enumerate(proxy.upstreams)]
    found = []
    for key, section in sections:
        if section.cafile and (problem := certificates_problem(section.cafile)) is not None:
            found.append(Problem(problem, f"{key}.cafile"))
        if (command := section.exec.command) and shutil.which(command) is None:
            found.append(Problem(f"{command} is no program that can be run", f"{key}.exec.command"))
    return found


def make_mirror(
    inner: Registry,
    content: MirroredContent,
    settings: Settings,
    *,
    via: str,
    environ: Mapping[str, str] = os.environ,
) -> MirrorRegistry:
    """Return the registry of a mirror in front of `inner`, which stores what `content` writes.

    `via` identifies this registry to its upstream ones, so that a loop is detected.
    """
    from moorage.proxy.checks import TagChecks
    from moorage.proxy.registry import MirrorRegistry
    from moorage.proxy.spool import Spool

    proxy = settings.proxy
    directory = spool_directory(settings, environ)
    checks = TagChecks(directory / "checks", absent_s=proxy.missinginterval)
    return MirrorRegistry(
        inner,
        make_upstreams(settings, via=via),
        content,
        Spool(directory),
        checks,
        unread_s=proxy.cachewritetimeout,
        companions=proxy.referrers,
    )


def spool_directory(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of downloads in progress, from which a finished one is moved into the store.

    Raises StartupError.
    """
    if settings.proxy.spool:
        return Path(settings.proxy.spool)
    filesystem = settings.storage.filesystem
    if filesystem is not None:
        return Path(filesystem.rootdirectory, "_moorage", "spool")
    directory = cache_file(settings, "spool", environ)
    if directory is None:
        raise StartupError("no private directory can be made for downloads in progress; set one", "proxy.spool")
    return directory


def namespaces(settings: Settings) -> dict[str, str]:
    """Return the prefix of local repositories for each value of containerd's parameter `ns`, in lower case.

    Names of this registry itself have an empty one.  Empty without several upstream registries.
    """
    found: dict[str, str] = {}
    if settings.proxy.upstreams:
        found = dict.fromkeys(map(str.lower, settings.proxy.names), "")
        if host := urlsplit(settings.http.host).netloc:
            found[host.lower()] = ""
    for upstream in settings.proxy.upstreams:
        for name in (*map(str.lower, upstream.namespaces), *([upstream.prefix] if upstream.prefix else ())):
            found[name] = upstream.prefix
    return found


@dataclass(frozen=True)
class CacheLimits:
    """Limits of the cached content of each upstream registry, by the prefix of its repositories."""

    by_prefix: tuple[tuple[str, MirrorLimits], ...]
    local: tuple[Glob, ...] = ()

    @property
    def evicts(self) -> bool:
        """Return whether anything is ever evicted."""
        return any(limits.need_pulls for _, limits in self.by_prefix)

    def of(self, name: RepoName) -> MirrorLimits | None:
        """Return the limits of a mirrored repository; None for a local one."""
        for prefix, limits in self.by_prefix:
            if not prefix:
                return None if any(pattern.matches(name) for pattern in self.local) else limits
            if name.startswith(f"{prefix}/"):
                return limits
        return None


def cache_limits(settings: Settings) -> CacheLimits:
    """Return the limits of the pull-through cache; none without upstream registries."""
    from moorage.proxy.eviction import MirrorLimits

    proxy = settings.proxy
    if proxy.remoteurl:
        return CacheLimits((("", MirrorLimits("proxy", proxy.ttl, proxy.maxsize)),))
    found = [
        (
            upstream.prefix,
            MirrorLimits(
                f"proxy.upstreams[{index}]",
                proxy.ttl if upstream.ttl is None else upstream.ttl,
                upstream.maxsize,
            ),
        )
        for index, upstream in enumerate(proxy.upstreams)
    ]
    return CacheLimits(tuple(sorted(found, key=lambda one: -len(one[0]))), tuple(map(Glob.parse, proxy.local)))


def make_upstreams(settings: Settings, *, via: str) -> Upstreams:
    """Return the upstream registries of checked settings."""
    from moorage.proxy.upstreams import UpstreamOptions, Upstreams

    proxy = settings.proxy
    options = UpstreamOptions(
        check_interval_s=proxy.checkinterval, check_timeout_s=proxy.checktimeout, stale_s=proxy.maxstale
    )
    if proxy.remoteurl:
        return Upstreams([_make(proxy, replace(options, library=_is_docker_hub(proxy.remoteurl)), via)])
    return Upstreams(
        [_make(one, _options(one, options), via) for one in proxy.upstreams],
        local=tuple(map(Glob.parse, proxy.local)),
    )


def _options(upstream: ProxyUpstream, common: UpstreamOptions) -> UpstreamOptions:
    interval_s = upstream.checkinterval
    return replace(
        common,
        prefix=upstream.prefix,
        check_interval_s=common.check_interval_s if interval_s is None else interval_s,
        library=_is_docker_hub(upstream.remoteurl) or upstream.prefix == "docker.io",
        allow=tuple(map(Glob.parse, upstream.allow)),
        deny=tuple(map(Glob.parse, upstream.deny)),
    )


def _is_docker_hub(url: str) -> bool:
    return urlsplit(url).hostname in _DOCKER_HUB


def _make(upstream: Proxy | ProxyUpstream, options: UpstreamOptions, via: str) -> Upstream:
    from moorage.proxy.upstreams import Upstream
    from moorage.upstream.client import RegistryClient
    from moorage.upstream.reference import parse_endpoint
    from moorage.upstream.transport import ClientOptions

    client_options = ClientOptions(
        ca_file=Path(upstream.cafile) if upstream.cafile else None,
        allowed_realms=tuple(upstream.realms),
        connections=_CONNECTIONS,
        via=via,
    )
    credentials = _credentials(upstream.username, upstream.password, upstream.exec)
    urls = (upstream.remoteurl, *upstream.endpoints)
    return Upstream(options, [RegistryClient(parse_endpoint(url), credentials, client_options) for url in urls])


def _credentials(username: str, password: str, helper: Exec) -> CredentialSource:
    from moorage.upstream.credentials import AnonymousCredentials, StaticCredentials

    if helper.command:
        from moorage.upstream.credentials import HelperCredentials

        return HelperCredentials(helper.command, helper.lifetime)
    return StaticCredentials(username, password) if username else AnonymousCredentials()
