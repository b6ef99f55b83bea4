"""A client of Redis as the settings want it: one server, the master that sentinels name, or a cluster.

Nothing is connected before the first call.  redis-py is imported here and nowhere else, when a cache in Redis is
configured; its replies are checked by `redis_sizes.py`, and its errors and delays are `circuit_breaker.py`'s.

A connection that was cut while it was idle is replaced by a retry; `idle_s` and `age_s` replace it before, so
that a firewall that forgets connections in silence costs nobody a timeout.
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

_ENVELOPE: Final = 2
"""Connections beside those that requests use at the same time: a ping, and one being replaced."""


class RedisClient:
    """`redis.asyncio.Redis` or `RedisCluster`, which share no type; of both only what is here is used.

    Replies and errors are redis-py's.
    """

    def __init__(self, client: Any, closing: Callable[[], Awaitable[None]]) -> None:
        self._client, self._closing = client, closing

    async def call(self, *command: Any) -> Any:
        return await self._client.execute_command(*command)

    async def together(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """In one round trip (to each node of a cluster); not all or nothing.  Raises the first refusal."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        await pipeline.execute()

    async def close(self) -> None:
        """End every connection."""
        await self._client.aclose()
        await self._closing()


async def _nothing_else() -> None:
    """One server's pool is closed with its client."""


def require_library() -> None:
    """Import redis-py.  Raises StartupError."""
    extras.load("redis", "storage.cache.blobdescriptor: redis", "redis.asyncio")


def connect(options: RedisOptions, *, clock: Callable[[], float] = time.monotonic) -> RedisClient:
    """The client; nothing is connected before its first call."""
    if options.is_cluster:
        return _cluster(options, clock)
    if options.master_name:
        return _sentinel(options, clock)
    return _single(options, clock)


def _single(options: RedisOptions, clock: Callable[[], float]) -> RedisClient:
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.connection import Connection, SSLConnection

    host, port = options.addresses[0]
    base: type[Any] = SSLConnection if options.tls else Connection
    pool: Any = ConnectionPool(
        connection_class=_ageing(base, options, clock),
        max_connections=options.connections + _ENVELOPE,
        host=host,
        port=port,
        retry=_retry(options),
        **_login(options),
        **_common(options),
    )
    return RedisClient(Redis.from_pool(pool), _nothing_else)


def _sentinel(options: RedisOptions, clock: Callable[[], float]) -> RedisClient:
    from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

    base: type[Any] = SentinelManagedSSLConnection if options.tls else SentinelManagedConnection
    at_sentinels = {**_common(options), "retry": _retry(options)}
    if options.tls:
        at_sentinels["ssl"] = True
    if options.sentinel_password:
        at_sentinels["password"] = options.sentinel_password
        at_sentinels["username"] = options.sentinel_username or None
    # Here the retries ask the sentinels again, which is how a failover is found.
    sentinel: Any = Sentinel  # redis-py leaves it untyped
    found = sentinel(list(options.addresses), sentinel_kwargs=at_sentinels)
    master = found.master_for(
        options.master_name,
        connection_class=_ageing(base, options, clock),
        max_connections=options.connections + _ENVELOPE,
        retry=_retry(options),
        **_login(options),
        **_common(options),
    )

    async def leave_sentinels() -> None:
        for each in found.sentinels:
            await each.aclose()

    return RedisClient(master, leave_sentinels)


def _cluster(options: RedisOptions, clock: Callable[[], float]) -> RedisClient:
    from redis.asyncio.cluster import ClusterNode, RedisCluster
    from redis.asyncio.connection import Connection, SSLConnection

    login = _login(options)
    del login["db"]  # a cluster has one
    found: Any = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in options.addresses],
        max_connections=options.connections + _ENVELOPE,
        retry=_retry(options),
        # A slot without a node makes those keys unknown; the others are still of use.
        require_full_coverage=False,
        ssl=options.tls is not None,
        **login,
        **_common(options),
    )
    kind = _ageing(SSLConnection if options.tls else Connection, options, clock)
    found.connection_kwargs["connection_class"] = kind
    for node in found.startup_nodes:
        node.connection_class = kind

    async def leave_nodes() -> None:
        # `aclose` leaves connections of a client that is just finding out anew who is in the cluster.
        for attribute in ("nodes_cache", "startup_nodes"):
            await found.nodes_manager.aclose(attribute)

    return RedisClient(found, leave_nodes)


def _login(options: RedisOptions) -> dict[str, Any]:
    return {
        "db": options.database,
        "username": options.username or None,
        "password": options.password or None,
        "client_name": options.client_name or None,
    }


def _common(options: RedisOptions) -> dict[str, Any]:
    """Of connections to servers and to sentinels."""
    found: dict[str, Any] = {
        "protocol": options.protocol,
        "socket_connect_timeout": options.connect_s,
        "socket_timeout": options.answer_s,
        "socket_keepalive": True,
    }
    if not options.identify:
        # Newer versions of redis-py have the first, and warn of the other two.
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

    # A connection that broke is worth another try; a server that is silent is not, since somebody is waiting.
    # redis-py doubles the base before the first pause already.
    backoff = ExponentialBackoff(cap=options.longest_pause_s, base=options.first_pause_s / 2)
    return Retry(backoff, options.retries, supported_errors=(Broken,))


def _ageing(base: type[Any], options: RedisOptions, clock: Callable[[], float]) -> type[Any]:
    """`base`, whose connections are replaced before a command when they are too old or were idle for too long."""

    class Ageing(base):  # type: ignore[misc]  # the base is one of redis-py's, chosen while running
        born: float | None = None
        used = 0.0

        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
            now = clock()
            if self.is_connected and self.born is not None and self._spent(now, self.born):
                await self.disconnect(nowait=True)
            if self.born is None or not self.is_connected:
                self.born = now
            self.used = now
            await super().send_packed_command(command, check_health)

        def _spent(self, now: float, born: float) -> bool:
            idle = options.idle_s and now - self.used > options.idle_s
            return bool(idle or (options.age_s and now - born > options.age_s))

    return Ageing
