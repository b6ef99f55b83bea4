"""Redis client for the settings: one server, the master that sentinels name, or a cluster.

Nothing is connected before the first call.  This is the only module that imports redis-py, if a cache in Redis is
configured.  `redis_sizes.py` checks the replies, `circuit_breaker.py` handles errors and delays.

A connection that was cut while idle is replaced by a retry; `connmaxidletime` and `connmaxlifetime` replace it
earlier, so that a firewall that drops idle connections silently causes no timeouts.
"""

from __future__ import annotations

import importlib.util
import time
from typing import TYPE_CHECKING, Any, Final

from moorage import extras

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from moorage.cache.redis_options import RedisOptions

__all__ = ["RedisClient", "connect", "require_library"]

_SPARE_CONNECTIONS: Final = 2
"""In addition to those of requests: one for a ping, and one that is being replaced."""


class RedisClient:
    """The operations that are used of `redis.asyncio.Redis` and `RedisCluster`, which share no type.

    Replies and errors are those of redis-py.
    """

    def __init__(self, client: Any, closing: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._closing = closing

    async def call(self, *command: Any) -> Any:
        """Return the reply to one command."""
        return await self._client.execute_command(*command)

    async def pipeline(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send commands in one round trip (to each node of a cluster); not atomic.  Raises the first error."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        await pipeline.execute()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._closing()


async def _close_nothing() -> None:
    """Do nothing: the pool of one server is closed with its client."""


def require_library() -> None:
    """Import redis-py.  Raises StartupError."""
    extras.load("redis", "storage.cache.blobdescriptor: redis", "redis.asyncio")


def connect(options: RedisOptions, *, clock: Callable[[], float] = time.monotonic) -> RedisClient:
    """Return the client; nothing is connected before its first call."""
    if options.is_cluster:
        return _cluster(options, clock)
    if options.mastername:
        return _sentinel(options, clock)
    return _single(options, clock)


def _single(options: RedisOptions, clock: Callable[[], float]) -> RedisClient:
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.connection import Connection, SSLConnection

    host, port = options.addrs[0]
    base: type[Any] = SSLConnection if options.tls else Connection
    pool: Any = ConnectionPool(
        connection_class=_expiring(base, options, clock),
        max_connections=options.poolsize + _SPARE_CONNECTIONS,
        host=host,
        port=port,
        retry=_retry(options),
        **_login(options),
        **_common(options),
    )
    return RedisClient(Redis.from_pool(pool), _close_nothing)


def _sentinel(options: RedisOptions, clock: Callable[[], float]) -> RedisClient:
    from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

    base: type[Any] = SentinelManagedSSLConnection if options.tls else SentinelManagedConnection
    sentinel_options = {**_common(options), "retry": _retry(options)}
    if options.tls:
        sentinel_options["ssl"] = True
    if options.sentinelpassword:
        sentinel_options["password"] = options.sentinelpassword
        sentinel_options["username"] = options.sentinelusername or None
    # Each retry queries the sentinels again, which detects a failover.
    sentinel: Any = Sentinel  # redis-py leaves it untyped
    found = sentinel(list(options.addrs), sentinel_kwargs=sentinel_options)
    master = found.master_for(
        options.mastername,
        connection_class=_expiring(base, options, clock),
        max_connections=options.poolsize + _SPARE_CONNECTIONS,
        retry=_retry(options),
        **_login(options),
        **_common(options),
    )

    async def close_sentinels() -> None:
        for each in found.sentinels:
            await each.aclose()

    return RedisClient(master, close_sentinels)


def _cluster(options: RedisOptions, clock: Callable[[], float]) -> RedisClient:
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.connection import Connection, SSLConnection

    login = _login(options)
    del login["db"]  # a cluster has one
    found: Any = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in options.addrs],
        max_connections=options.poolsize + _SPARE_CONNECTIONS,
        retry=_retry(options),
        # A slot without a node makes its keys unavailable; the others can be used.
        require_full_coverage=False,
        ssl=options.tls is not None,
        **login,
        **_common(options),
    )
    kind = _expiring(SSLConnection if options.tls else Connection, options, clock)
    found.connection_kwargs["connection_class"] = kind
    for node in found.startup_nodes:
        node.connection_class = kind

    async def close_nodes() -> None:
        # `aclose` misses connections of a client that is just rediscovering the cluster.
        for attribute in ("nodes_cache", "startup_nodes"):
            await found.nodes_manager.aclose(attribute)

    return RedisClient(found, close_nodes)


def _login(options: RedisOptions) -> dict[str, Any]:
    return {
        "db": options.db,
        "username": options.username or None,
        "password": options.password or None,
        "client_name": options.clientname or None,
    }


def _common(options: RedisOptions) -> dict[str, Any]:
    """Return options of connections to servers and to sentinels."""
    found: dict[str, Any] = {
        "protocol": options.protocol,
        "socket_connect_timeout": options.dialtimeout,
        "socket_timeout": options.readtimeout,
        "socket_keepalive": True,
    }
    if options.disableidentity:
        # Newer versions of redis-py have the first and deprecate the other two.
        known = importlib.util.find_spec("redis.driver_info") is not None
        found |= {"driver_info": None} if known else {"lib_name": None, "lib_version": None}
    if options.tls is not None:
        found |= {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_data": options.tls.authorities or None,
            "ssl_certfile": options.tls.certificate or None,
            "ssl_keyfile": options.tls.key or None,
        }
    return found


def _retry(options: RedisOptions) -> Any:
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import ConnectionError as Broken

    # A broken connection is retried; a silent server is not, since a client is waiting.
    # redis-py doubles the base before the first pause.
    backoff = ExponentialBackoff(cap=options.maxretrybackoff, base=options.minretrybackoff / 2)
    return Retry(backoff, options.maxretries, supported_errors=(Broken,))


def _expiring(base: type[Any], options: RedisOptions, clock: Callable[[], float]) -> type[Any]:
    """Return a subclass of `base` that replaces a connection if it is too old or was idle too long."""

    class ExpiringConnection(base):  # type: ignore[misc]  # the base is one of redis-py's, chosen while running
        created_at: float | None = None
        used_at = 0.0

        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
            now = clock()
            if self.is_connected and self.created_at is not None and self._is_expired(now, self.created_at):
                await self.disconnect(nowait=True)
            if self.created_at is None or not self.is_connected:
                self.created_at = now
            self.used_at = now
            await super().send_packed_command(command, check_health)

        def _is_expired(self, now: float, created_at: float) -> bool:
            idle = options.connmaxidletime and now - self.used_at > options.connmaxidletime
            return bool(idle or (options.connmaxlifetime and now - created_at > options.connmaxlifetime))

    return ExpiringConnection
