"""Connections that nothing happens on: closed before they use up all there are, or hold up the end.

Granian ends idle HTTP/1.1 connections by its header timeout.  HTTP/2 connections it lets idle for ever, also
those that have not said a word yet, and when it stops it waits for clients that do not read its GOAWAY.  It does
not show its connections either, so this looks at the process's own sockets: one is idle if no request from its
peer is being answered, nothing waits to be sent, and nothing has come or gone for a while (tcp(7), TCP_INFO).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorage.http.middleware import Traffic

__all__ = ["close_idle", "deserted", "hasten", "watch"]

IDLE_LIMIT_S: Final = 180.0
"""How long an HTTP/2 connection may idle; the pools of clients in Go keep theirs for 90 s."""

_QUIET_S: Final = 1.0
_COUNT_EVERY_S: Final = 0.1
_LAST: Final = struct.Struct("8x9I4I")
"""`struct tcp_info` of linux/tcp.h up to tcpi_last_ack_recv."""


async def watch(traffic: Traffic, local: object) -> None:
    """Close connections of the listening socket named `local` that have idled for long; runs until cancelled."""
    while True:
        await asyncio.sleep(IDLE_LIMIT_S / 12)
        await asyncio.to_thread(close_idle, local, IDLE_LIMIT_S, frozenset(traffic.active))


async def hasten(traffic: Traffic, local: object) -> None:
    """The same while draining, when idle means a second; Granian has closed most of them by then."""
    while True:
        await asyncio.sleep(_QUIET_S)
        await asyncio.to_thread(close_idle, local, _QUIET_S, frozenset(traffic.active))


async def deserted(local: object) -> None:
    """Returns when there is no connection to the listening socket named `local`."""
    while await asyncio.to_thread(_has_connections, local):  # noqa: ASYNC110  the kernel tells nobody
        await asyncio.sleep(_COUNT_EVERY_S)


def _has_connections(local: object) -> bool:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  as below
        with suppress(OSError), _copy(int(name)) as connection:
            if _is_ours(connection, local):
                return True
    return False


def close_idle(local: object, limit_s: float, active: frozenset[object]) -> int:
    """Shut down idle connections to `local`; how many.  `active` are the peers that wait for an answer."""
    closed = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  numbers are wanted, not paths
        # Whatever the descriptor is by the time of the dup, and if it is no socket: all is asked of the copy.
        with suppress(OSError), _copy(int(name)) as connection:
            if _is_ours(connection, local) and _is_idle(connection, limit_s, active):
                connection.shutdown(socket.SHUT_RDWR)
                closed += 1
    return closed


def _copy(descriptor: int) -> socket.socket:
    """Raises OSError for what is no socket."""
    copy = os.dup(descriptor)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _is_ours(connection: socket.socket, local: object) -> bool:
    if connection.type != socket.SOCK_STREAM or connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    name = connection.getsockname()
    if isinstance(local, str):
        return bool(name == local)
    # By the port alone: whoever listens on every interface has connections on each of them.
    return isinstance(local, tuple) and isinstance(name, tuple) and bool(name[1] == local[1])


def _is_idle(connection: socket.socket, limit_s: float, active: frozenset[object]) -> bool:
    (unsent,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    if unsent:
        return False
    if connection.family == socket.AF_UNIX:
        # Their peers have no names, so a request of any of them speaks for all.
        return not active
    address = connection.getpeername()
    if (address[0], str(address[1])) in active:
        return False
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST.size)
    *_, sent_ms, _, received_ms, _ = _LAST.unpack(info)
    return bool(min(sent_ms, received_ms) >= limit_s * 1000)
