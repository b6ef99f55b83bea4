"""Options of the Redis client; a field named as a setting of `redis` has its value."""

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
    """One address is a server, several are a cluster; with `mastername` they are sentinels.

    Times are in seconds.  `readtimeout` limits writing as well.  `poolsize` is the maximum per worker and server.
    """

    addrs: tuple[tuple[str, int], ...]
    mastername: str = ""
    clientname: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    sentinelusername: str = ""
    sentinelpassword: str = field(default="", repr=False)
    db: int = 0
    protocol: int = 3
    dialtimeout: float = 5.0
    readtimeout: float = 3.0
    maxretries: int = 3
    minretrybackoff: float = 0.008
    maxretrybackoff: float = 0.512
    poolsize: int = 10
    pooltimeout: float = 4.0
    """Maximum wait for a free connection."""
    connmaxidletime: float = 1800.0
    """A connection that was idle for longer is replaced; 0: never."""
    connmaxlifetime: float = 0.0
    """An older connection is replaced; 0: never."""
    disableidentity: bool = False
    tls: RedisTlsOptions | None = None

    @property
    def is_cluster(self) -> bool:
        return len(self.addrs) > 1 and not self.mastername

    @property
    def where(self) -> str:
        """Return the name of the server for the log."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.addrs)
        return f"{self.mastername}@{hosts}" if self.mastername else hosts
