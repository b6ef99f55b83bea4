"""What the reference offers and this version of Moorage does not: refused at start, never taken in silence.

A row goes when its feature comes.  What is disabled in the file, or has no effect there, is not refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from moorage.config.model import Settings
    from moorage.config.problems import Origin

__all__ = ["LATER", "Later", "refusals"]


@dataclass(frozen=True, slots=True)
class Later:
    """A feature to come.  `keys`: what the documentation marks; `used`: the keys that switch it on, if any do."""

    keys: tuple[str, ...]
    what: str
    instead: str
    used: Callable[[Settings], Iterator[str]]


def _auth(settings: Settings) -> Iterator[str]:
    if settings.auth.provider != "none":
        yield f"auth.{settings.auth.provider}"


def _storage(*drivers: str) -> Callable[[Settings], Iterator[str]]:
    return lambda settings: (f"storage.{name}" for name in drivers if getattr(settings.storage, name) is not None)


def _redis_cache(settings: Settings) -> Iterator[str]:
    if settings.storage.cache.blobdescriptor == "redis":
        yield "storage.cache.blobdescriptor"


def _middleware(settings: Settings) -> Iterator[str]:
    for part in ("registry", "repository", "storage"):
        for index, entry in enumerate(getattr(settings.middleware, part)):
            if not entry.disabled:
                yield f"middleware.{part}[{index}]"


def _endpoints(settings: Settings) -> Iterator[str]:
    for index, endpoint in enumerate(settings.notifications.endpoints):
        if not endpoint.disabled:
            yield f"notifications.endpoints[{index}]"


def _hooks(settings: Settings) -> Iterator[str]:
    for index, hook in enumerate(settings.log.hooks):
        if not hook.disabled:
            yield f"log.hooks[{index}]"


def _filled(path: str) -> Callable[[Settings], Iterator[str]]:
    """The key itself, when it is not empty."""

    def used(settings: Settings) -> Iterator[str]:
        value: object = settings
        for step in path.split("."):
            value = getattr(value, step)
        if value:
            yield path

    return used


LATER: Final = (
    Later(
        ("auth.silly", "auth.htpasswd", "auth.token"),
        "authentication",
        "remove it, and keep the registry on loopback or behind a proxy that checks who comes in",
        _auth,
    ),
    Later(
        ("storage.gcs",),
        "storage in a bucket of Google",
        "use storage.filesystem, storage.s3 or storage.azure",
        _storage("gcs"),
    ),
    Later(
        ("storage.swift",),
        "the swift driver (gone since CNCF Distribution 3)",
        "reach the same store by its S3 protocol (OpenStack's s3api) with storage.s3 and regionendpoint",
        _storage("swift"),
    ),
    Later(
        ("storage.oss",),
        "the oss driver (gone since CNCF Distribution 3)",
        "reach the same store by its S3-compatible address with storage.s3 and regionendpoint",
        _storage("oss"),
    ),
    Later(("storage.cache.blobdescriptor",), "a cache in Redis", "use inmemory, or remove it", _redis_cache),
    Later(("middleware",), "middleware", "remove it or add disabled: true", _middleware),
    Later(("notifications.endpoints",), "notification", "remove it or add disabled: true", _endpoints),
    Later(("log.hooks",), "a log hook", "remove it or add disabled: true", _hooks),
    Later(
        ("proxy",),
        "pull-through caching",
        "remove it; as a mirror without content this registry would answer 404",
        _filled("proxy.remoteurl"),
    ),
    Later(
        ("http.debug",),
        "the debug listener",
        "remove it, or start with REGISTRY_HTTP_DEBUG_ADDR set to nothing",
        _filled("http.debug.addr"),
    ),
    Later(
        ("http.tls.letsencrypt",),
        "Let's Encrypt",
        "remove it and give http.tls.certificate and http.tls.key",
        _filled("http.tls.letsencrypt.cachefile"),
    ),
    Later(
        ("http.tls.clientcas", "http.tls.clientauth"),
        "asking clients for certificates",
        "remove it, and check clients in a proxy in front",
        _filled("http.tls.clientcas"),
    ),
    Later(
        ("http.tls.ciphersuites",),
        "a choice of cipher suites",
        "remove it; only suites with forward secrecy and authenticated encryption are used",
        _filled("http.tls.ciphersuites"),
    ),
)


def refusals(settings: Settings, origin: Callable[[str], Origin]) -> list[Problem]:
    """One error for each key that asks for what is not there."""
    return [
        Problem(f"{later.what} is not available in this version of Moorage; {later.instead}", key, origin(key))
        for later in LATER
        for key in later.used(settings)
    ]
