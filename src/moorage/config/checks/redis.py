"""Checks of `redis`.

The spellings of 2.8 have been replaced by `config/deprecated.py`.  Settings that only tune the client library of
CNCF Distribution are warnings; those that would make responses wrong are errors.

Above: `dependencies.py`.
Source: docs/reference/configuration.md, section 11; go-redis v9 UniversalOptions.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from moorage.config.checks.files import unreadable
from moorage.config.problems import Problem
from moorage.config.sections.services import Redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.model import Settings

__all__ = ["check_redis", "redis_address", "uses_tls"]

_PORT_LIMIT: Final = 65_535
_PROTOCOLS: Final = (2, 3)
_TUNING: Final = (
    "contexttimeoutenabled", "identitysuffix", "maxidleconns", "maxredirects", "minidleconns", "poolfifo",
    "unstableresp3",
)  # fmt: skip


def check_redis(settings: Settings) -> Iterator[Problem]:
    """Yield the problems of `redis`."""
    redis = settings.redis
    used = settings.storage.cache.blobdescriptor == "redis"
    if redis is None:
        if used:
            message = "redis needs the section redis with addrs (addr in files of 2.8)"
            yield Problem(message, "storage.cache.blobdescriptor")
        return
    if not used:
        yield Problem("has no effect; nothing uses Redis", "redis", kind="warning")
        return
    if not redis.addrs:
        yield Problem("required; expected a list such as [redis.example.com:6379]", "redis.addrs")
    for index, text in enumerate(redis.addrs):
        try:
            redis_address(text)
        except ValueError as error:
            yield Problem(f"{error}, found {text!r}", f"redis.addrs[{index}]")
    if redis.protocol not in _PROTOCOLS:
        yield Problem(f"expected 2 or 3, found {redis.protocol}", "redis.protocol")
    if redis.db < 0:
        yield Problem("expected a whole number of at least 0", "redis.db")
    yield from _replicas(redis)
    yield from _tls(redis)
    yield from _without_effect(redis)


def redis_address(text: str) -> tuple[str, int]:
    """Parse `host:port`; the default host is localhost.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is None or not 0 < int(port) <= _PORT_LIMIT:
        raise ValueError("expected host:port such as redis.example.com:6379")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)  # its ValueError has the reason
    elif ":" in host or re.search(r"[\s/\[\]@]", host):
        raise ValueError("expected host:port, with an IPv6 address in brackets")
    return host or "localhost", int(port)


def uses_tls(redis: Redis) -> bool:
    """Return whether any key enables TLS."""
    tls = redis.tls
    return bool(tls.enabled or tls.certificate or tls.key or tls.rootcas)


def _replicas(redis: Redis) -> Iterator[Problem]:
    several = len(redis.addrs) > 1 or bool(redis.mastername)
    for name in ("readonly", "routebylatency", "routerandomly"):
        if not getattr(redis, name):
            continue
        if several:
            message = "is not supported: a replica may lag behind a removal; remove it"
            yield Problem(message, f"redis.{name}")
        else:
            yield Problem("has no effect with one server", f"redis.{name}", kind="warning")


def _tls(redis: Redis) -> Iterator[Problem]:
    tls = redis.tls
    if bool(tls.certificate) != bool(tls.key):
        missing = "key" if tls.certificate else "certificate"
        yield Problem("required; certificate and key come together", f"redis.tls.{missing}")
    files = [("certificate", tls.certificate), ("key", tls.key)]
    files += [(f"rootcas[{index}]", path) for index, path in enumerate(tls.rootcas)]
    for name, path in files:
        if not path and name in {"certificate", "key"}:
            continue
        if reason := unreadable(path):
            yield Problem(f"cannot read {path!r}: {reason}", f"redis.tls.{name}")


def _without_effect(redis: Redis) -> Iterator[Problem]:
    default = Redis()
    for name in _TUNING:
        if getattr(redis, name) != getattr(default, name):
            yield Problem("has no effect; it tunes another client library", f"redis.{name}", kind="warning")
    for name in ("sentinelusername", "sentinelpassword"):
        if getattr(redis, name) and not redis.mastername:
            yield Problem("has no effect without redis.mastername", f"redis.{name}", kind="warning")
    if redis.db and len(redis.addrs) > 1 and not redis.mastername:
        yield Problem("has no effect: a cluster has only database 0", "redis.db", kind="warning")
