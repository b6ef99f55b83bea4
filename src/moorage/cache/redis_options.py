"""Options of the Redis client, made from the `redis` section of the settings."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RedisOptions", "RedisTlsOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTlsOptions:
    """PEM text of the certificate authorities ("" for the system's), and files of a client certificate."""

    authorities: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """One address is a server, several are a cluster; with `master_name` they are sentinels.

    Times are in seconds.  `connections` is the maximum per worker and server.
    """

    addresses: tuple[tuple[str, int], ...]
    master_name: str = ""
    client_name: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    database: int = 0
    protocol: int = 3
    connect_s: float = 5.0
    answer_s: float = 3.0
    retries: int = 3
    first_pause_s: float = 0.008
    longest_pause_s: float = 0.512
    connections: int = 10
    wait_s: float = 4.0
    """Maximum wait for a free connection."""
    idle_s: float = 1800.0
    """A connection that was idle for longer is replaced; 0: never."""
    age_s: float = 0.0
    """An older connection is replaced; 0: never."""
    identify: bool = True
    tls: RedisTlsOptions | None = None

    @property
    def is_cluster(self) -> bool:
        return len(self.addresses) > 1 and not self.master_name

    @property
    def where(self) -> str:
        """Return the name of the server for the log."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"{self.master_name}@{hosts}" if self.master_name else hosts
