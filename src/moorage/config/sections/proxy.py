"""Section `proxy`: pull-through cache of one upstream registry, or of several."""

from typing import Annotated

from moorage.config.sections.base import (
    NANOSECONDS,
    Flag,
    Nanoseconds,
    PathText,
    Period,
    Section,
    Span,
    Text,
    setting,
)
from moorage.config.sections.sizes import Size

__all__ = ["Exec", "Proxy", "ProxyUpstream"]

_PATTERNS = "`*` matches a part of one component of the name, `**` any number of components."
_ENDPOINTS = "Further root URLs with the same content and account, asked in order if the first cannot be reached."
_REALMS = (
    "Hosts of token servers that get the credentials, besides those of the registry's own domain (its last two "
    "labels); without it such a token server is not asked."
)
_CHECK = (
    "Age below which a cached tag is served without asking the upstream registry; 0: each request for a tag asks "
    "it, by HEAD."
)
_CAFILE = "PEM file with the CAs of the upstream registry; empty: those of the system."


class Exec(Section):
    """Credential helper for the upstream registry."""

    command: Text = setting("", "Program, run as `COMMAND get` (docker-credential-helper).")
    lifetime: Annotated[float | None, NANOSECONDS] = setting(
        None, "Lifetime of the helper's result; 0: run it for every request.", unit="duration", shown="for ever"
    )


class ProxyUpstream(Section):
    """One of several upstream registries."""

    prefix: Text = setting(
        "",
        "Beginning of the local names of its repositories: with `docker.io`, `docker.io/library/alpine` is "
        "`library/alpine` there. Empty: all names that no other prefix covers. It is also a value of the "
        "parameter `ns` of containerd.",
        own=True,
    )
    namespaces: tuple[Text, ...] = setting(
        (),
        "Further values of the parameter `ns` that select this upstream registry, such as `ghcr.io:443`.",
        own=True,
    )
    remoteurl: Text = setting("", "Root URL of the upstream registry.", required=True, own=True)
    endpoints: tuple[Text, ...] = setting((), _ENDPOINTS, own=True)
    username: Text = setting("", "User name at the upstream registry.", own=True)
    password: Text = setting("", "Password at the upstream registry.", secret=True, own=True)
    exec: Exec = setting(Exec, "Credential helper.", own=True)
    ttl: Span | None = setting(
        None, "As `proxy.ttl`, for this upstream registry.", unit="duration", shown="`proxy.ttl`", own=True
    )
    maxsize: Size | None = setting(
        None,
        "Bound of the stored bytes of its repositories; see `proxy.maxsize`.",
        unit="bytes",
        shown="unlimited",
        own=True,
    )
    checkinterval: Span | None = setting(
        None,
        "As `proxy.checkinterval`, for this upstream registry.",
        unit="duration",
        shown="`proxy.checkinterval`",
        own=True,
    )
    allow: tuple[Text, ...] = setting(
        (), f"Patterns of its repositories that may be requested. {_PATTERNS}", shown="all", own=True
    )
    deny: tuple[Text, ...] = setting((), "Patterns of its repositories that may not be requested.", own=True)
    realms: tuple[Text, ...] = setting((), _REALMS, own=True)
    cafile: PathText = setting("", _CAFILE, own=True)


class Proxy(Section):
    """Pull-through cache of other registries; see [Mirror](mirror.md)."""

    remoteurl: Text = setting(
        "", "Root URL of the one upstream registry, of which this registry is a read-only cache; empty: none."
    )
    username: Text = setting("", "User name at the upstream registry.")
    password: Text = setting("", "Password at the upstream registry.", secret=True)
    exec: Exec = setting(Exec, "Credential helper.")
    ttl: Nanoseconds = setting(
        168 * 3600.0,
        "How long cached content stays after its last pull; 0: unlimited. Needs `storage.maintenance."
        "garbagecollection` to free space.",
        unit="duration",
    )
    cachewritetimeout: Nanoseconds = setting(
        300.0, "How long a download continues that no client reads any more.", unit="duration"
    )
    endpoints: tuple[Text, ...] = setting((), _ENDPOINTS, own=True)
    realms: tuple[Text, ...] = setting((), _REALMS, own=True)
    cafile: PathText = setting("", _CAFILE, own=True)
    maxsize: Size | None = setting(
        None,
        "Bound of the stored bytes of mirrored repositories: what was pulled longest ago is removed.",
        unit="bytes",
        shown="unlimited",
        own=True,
    )
    checkinterval: Span = setting(0.0, _CHECK, unit="duration", own=True)
    checktimeout: Period = setting(
        5.0,
        "Longest wait for the upstream registry when a cached tag is checked; then it is served as it is.",
        unit="duration",
        own=True,
    )
    maxstale: Span | None = setting(
        None,
        "How long after its last check a cached tag is served while the upstream registry fails.",
        unit="duration",
        shown="unlimited",
        own=True,
    )
    missinginterval: Period = setting(
        30.0,
        "How long a tag that the upstream registry does not have is not asked for again.",
        unit="duration",
        own=True,
    )
    referrers: Flag = setting(
        True, "Fetch the referrers of a new tag (signatures, SBOMs) as well, so that they are cached.", own=True
    )
    spool: PathText = setting(
        "",
        "Local directory for downloads in progress, on the file system of the data if possible.",
        shown="`_moorage/spool` in the data directory; with a bucket, the cache directory of the user",
        own=True,
    )
    upstreams: tuple[ProxyUpstream, ...] = setting(
        (), "Several upstream registries, by prefix of the repository name, beside local repositories.", own=True
    )
    names: tuple[Text, ...] = setting(
        (),
        "Further names of this registry, beside `http.host`: values of containerd's `ns` that select its local "
        "repositories. Any other value that is not of an upstream registry is refused.",
        own=True,
    )
    local: tuple[Text, ...] = setting(
        (),
        "Patterns of repositories that are local although an upstream registry without a prefix covers them. "
        f"{_PATTERNS}",
        own=True,
    )
