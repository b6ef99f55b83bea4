"""Cache of blob sizes: settings become the cache of `storage.cache`, in the process, in Redis, or none.

redis-py is imported only if a cache in Redis is configured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.config.checks.redis import redis_address, uses_tls
from moorage.registry.sizes import MemorySizes
from moorage.startup import StartupError

if TYPE_CHECKING:
    from moorage.cache.redis_options import RedisOptions, RedisTlsOptions
    from moorage.config.model import Settings
    from moorage.config.sections.services import Redis
    from moorage.registry.sizes import Sizes

__all__ = ["make_sizes", "ping", "prepare", "redis_options"]

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 3.0
_RETRIES: Final = 3
_CONNECTIONS: Final = 10
_IDLE_S: Final = 1800.0


def make_sizes(settings: Settings) -> Sizes:
    """Return the cache of blob sizes, not connected yet.  Raises StartupError."""
    if (options := prepare(settings)) is not None:
        from moorage.cache.redis_sizes import RedisSizes

        return RedisSizes(options)
    cache = settings.storage.cache
    return MemorySizes(cache.blobdescriptorsize if cache.blobdescriptor else 0)


def prepare(settings: Settings) -> RedisOptions | None:
    """Return the options of the Redis client; None if no cache in Redis is configured.

    Reads its files and imports its library, which the workers share.  Raises StartupError.
    """
    if settings.storage.cache.blobdescriptor != "redis" or settings.redis is None:
        return None
    from moorage.cache.redis_client import require_library

    require_library()
    return redis_options(settings.redis)


async def ping(settings: Settings) -> None:
    """Send PING to the Redis of `storage.cache`.  Raises StartupError and redis-py's errors."""
    options = prepare(settings)
    if options is None:
        return
    from moorage.cache.redis_client import connect

    client = connect(options)
    try:
        await client.call("PING")
    finally:
        await client.close()


def redis_options(redis: Redis) -> RedisOptions:
    """Return the options of the client; a 0 is the default, as in CNCF Distribution.  Raises StartupError."""
    from moorage.cache.redis_options import RedisOptions

    answer = redis.readtimeout if redis.readtimeout > 0 else _ANSWER_S
    send = redis.writetimeout if redis.writetimeout > 0 else answer
    size = redis.poolsize if redis.poolsize > 0 else _CONNECTIONS
    return RedisOptions(
        addrs=tuple(redis_address(text) for text in redis.addrs),
        mastername=redis.mastername,
        clientname=redis.clientname,
        username=redis.username,
        password=redis.password,
        sentinelusername=redis.sentinelusername,
        sentinelpassword=redis.sentinelpassword,
        db=redis.db,
        protocol=redis.protocol,
        dialtimeout=redis.dialtimeout if redis.dialtimeout > 0 else _CONNECT_S,
        readtimeout=min(answer, send),
        maxretries=redis.maxretries if redis.maxretries > 0 else (_RETRIES if redis.maxretries == 0 else 0),
        minretrybackoff=max(0.0, redis.minretrybackoff),
        maxretrybackoff=max(0.0, redis.maxretrybackoff),
        poolsize=min(size, redis.maxactiveconns) if redis.maxactiveconns > 0 else size,
        pooltimeout=redis.pooltimeout if redis.pooltimeout > 0 else answer + 1,
        connmaxidletime=_IDLE_S if redis.connmaxidletime == 0 else max(0.0, redis.connmaxidletime),
        connmaxlifetime=max(0.0, redis.connmaxlifetime),
        disableidentity=redis.disableidentity,
        tls=_tls(redis) if uses_tls(redis) else None,
    )


def _tls(redis: Redis) -> RedisTlsOptions:
    from moorage.cache.redis_options import RedisTlsOptions

    try:
        authorities = "\n".join(Path(path).read_text(encoding="ascii") for path in redis.tls.rootcas)
    except (OSError, ValueError) as error:
        raise StartupError(str(error), "redis.tls.rootcas") from error
    if redis.tls.rootcas and "-----BEGIN CERTIFICATE-----" not in authorities:
        raise StartupError("no certificate in PEM in these files", "redis.tls.rootcas")
    return RedisTlsOptions(authorities=authorities, certificate=redis.tls.certificate, key=redis.tls.key)
