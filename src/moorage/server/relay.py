"""Connections that the companion has accepted in the workers' place, passed on to any of them, with their address.

    client 203.0.113.7:40000 ─► companion ─► from 127.0.0.1:50000 ─► the relay's port, where workers listen too
                                    └─ writes down 50000: 203.0.113.7 40000 ─► `Relayed` reads it, each request

The map is memory that master, companion and workers share, a line for each port of the machine; a connection is in
it from before it is made until it has ended.  So logs, limits of guesses at passwords and the trust in proxies are
what they would be without the detour.

The rule not to miss: whoever is not in the map is refused.  Anybody on this machine can reach the port, and nobody
but the companion has business there.
"""

from __future__ import annotations

import mmap
import socket
from typing import TYPE_CHECKING, Final

from moorage.server.listen import BACKLOG

if TYPE_CHECKING:
    from moorage.http.middleware import ASGIApp, Receive, Scope, Send, Traffic

__all__ = ["Relay", "Relayed"]

_LINE: Final = 64
"""Bytes; the longest address (IPv6 with a scope) and port have 60."""

_PORTS: Final = 1 << 16
_REFUSAL: Final = b"not for you\n"


class Relay:
    """Made by the master, before it forks.  Raises OSError."""

    def __init__(self) -> None:
        # Pages that are never written cost nothing.
        self._map = mmap.mmap(-1, _LINE * _PORTS)
        self.socket = socket.socket()
        # Accepted connections inherit it, as those of `listen.py`.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(BACKLOG)
        self.port = int(self.socket.getsockname()[1])

    def note(self, port: int, client: tuple[str, int] | None) -> None:
        """The connection from this port speaks for a client, or has ended."""
        text = "" if client is None else f"{client[0]} {client[1]}"
        line = text.encode()[:_LINE]
        self._map[port * _LINE : (port + 1) * _LINE] = line.ljust(_LINE, b"\0")

    def client(self, port: int) -> tuple[str, str] | None:
        """Whom the connection from this port speaks for, as Granian tells addresses."""
        line = self._map[port * _LINE : (port + 1) * _LINE].rstrip(b"\0").decode(errors="replace")
        host, space, number = line.rpartition(" ")
        return (host, number) if space else None

    def forget(self) -> None:
        """The companion is gone, and its connections with it."""
        self._map[:] = bytes(len(self._map))


class Relayed:
    """ASGI, outermost: gives requests from the relay the address of their client."""

    def __init__(self, app: ASGIApp, relay: Relay, traffic: Traffic) -> None:
        self._app, self._relay, self._traffic = app, relay, traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = tuple(scope.get("client") or ())
        client = self._relay.client(int(peer[1]))
        if client is None:
            headers = [(b"content-length", b"%d" % len(_REFUSAL)), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
            return
        scope["client"] = client
        await self._app(scope, receive, send)
