"""Limits and timeouts of the HTTP/1.1 server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Http1Options"]


@dataclass(frozen=True, slots=True)
class Http1Options:
    """Limits per connection, and `connections` per worker.  Times are seconds, sizes bytes.

    `header_timeout_s`: from the first byte of a head (or from the connection) to its end.  `idle_timeout_s`:
    between two requests.  `handshake_timeout_s`: TLS.  `body_timeout_s` and `send_timeout_s` are the windows in
    which a client has to send, or read, `least_rate` bytes per second on average; time in which the store is slow
    does not count.
    """

    header_timeout_s: float = 30.0
    idle_timeout_s: float = 120.0
    handshake_timeout_s: float = 10.0
    body_timeout_s: float = 120.0
    send_timeout_s: float = 120.0
    least_rate: int = 100
    header_limit_bytes: int = 64 << 10
    header_limit_count: int = 128
    request_line_limit_bytes: int = 16 << 10
    connections: int = 1024
