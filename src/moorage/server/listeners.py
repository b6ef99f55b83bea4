"""Listening sockets: bound once, by the master, before the workers start.

TCP with several workers gets one socket for each of them, all on one port (SO_REUSEPORT), because load is uneven
with one queue: the worker that wakes first accepts all waiting connections.  Measured with 32 keep-alive
connections on four workers, in bursts and one after another: [32, 0, 0, 0] to [13, 11, 4, 4] from one queue,
[13, 9, 6, 4] to [9, 8, 8, 7] with a socket each; 12,000 against 15,500 requests/s.  The master holds every socket
open, so connections in the queue of a dead worker are served by its successor.  The socket of a worker that does
not respond is left out of the kernel's choice (`server/processes/reuseport.py`).

A Unix socket and a socket that systemd passed down are one queue for all, from which a worker that does not
respond takes nothing.

Source: sd_listen_fds(3); socket(7), SO_REUSEPORT.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from moorage.config.addresses import UNSPECIFIED, host_and_port
from moorage.server.processes import reuseport
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

__all__ = ["BACKLOG", "Sockets", "bind", "check_socket", "inherited", "is_inherited", "is_loopback"]

BACKLOG: Final = 2048
"""Connections that the kernel keeps while every worker is busy (it caps this at net.core.somaxconn)."""

_FIRST_INHERITED: Final = 3
_REMEDIES: Final = {
    errno.EADDRINUSE: "; another server has it, perhaps this registry itself (ss -ltnp shows which)",
    errno.EACCES: "; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "; no interface of this machine has it",
}
_log: Final = structlog.get_logger("moorage.server")


@dataclass(slots=True)
class Sockets:
    """Listening sockets of the workers: that of worker `i` is `of(i)`.

    `path` is the file of a Unix socket that was created here, to be removed at shutdown.
    """

    shared: bool
    sockets: list[socket.socket | None]
    path: str | None = None
    _address: tuple[int, str, int] | None = field(default=None)
    _group: list[int] = field(default_factory=list)
    """The workers whose sockets share the port, in the kernel's order of them."""
    _excluded: set[int] = field(default_factory=set)

    @property
    def unix(self) -> bool:
        return any(one is not None and one.family == socket.AF_UNIX for one in self.sockets)

    def of(self, index: int) -> socket.socket:
        """Return the socket of a worker, reopened if it was closed.  Raises OSError."""
        index = 0 if self.shared else index
        found = self.sockets[index]
        if found is None:
            assert self._address is not None
            found = _listening(*self._address, share=True)
            self.sockets[index] = found
            self._group.append(index)
            self._steer()
        return found

    def withdraw(self, index: int) -> None:
        """Close the socket of a worker that does not start, so that the kernel chooses others."""
        if not self.shared and sum(one is not None for one in self.sockets) > 1:
            found, self.sockets[index] = self.sockets[index], None
            if found is not None:
                found.close()
                # The kernel fills the gap with the last of the group.
                position, last = self._group.index(index), self._group.pop()
                if last != index:
                    self._group[position] = last
                self._steer()

    def exclude(self, index: int) -> None:
        """Send no new connections to the socket of a worker, as long as there are others."""
        self._excluded.add(index)
        self._steer()

    def include(self, index: int) -> None:
        """Undo `exclude`."""
        if index in self._excluded:
            self._excluded.remove(index)
            self._steer(released=not self._excluded)

    def _steer(self, *, released: bool = False) -> None:
        if self.shared or not (self._excluded or released):
            return
        member = next((one for one in self.sockets if one is not None and one.fileno() >= 0), None)
        if member is None:  # closed: the server stops
            return
        positions = [at for at, index in enumerate(self._group) if index not in self._excluded]
        try:
            if len(positions) in {0, len(self._group)}:
                reuseport.release(member)
            else:
                reuseport.steer(member, positions)
        except OSError as error:
            if error.errno != errno.ENOENT:  # nothing was steered
                _log.warning(
                    "new connections cannot be steered past a worker that does not respond", cause=str(error)
                )

    def close(self) -> None:
        for one in self.sockets:
            if one is not None:
                one.close()

    def remove(self) -> None:
        """Remove the file of the Unix socket that was created here."""
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)

    def __str__(self) -> str:
        """Return `[::]:5000`, `127.0.0.1:5000` or the path."""
        first = next((one for one in self.sockets if one is not None), None)
        if first is None:
            return "nothing"
        name = first.getsockname()
        if first.family == socket.AF_UNIX:
            return str(name)
        return f"[{name[0]}]:{name[1]}" if first.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def bind(net: str, addr: str, workers: int) -> Sockets:
    """Listen on `http.addr`.  Raises `StartupError`."""
    try:
        return _unix(addr) if net == "unix" else _tcp(addr, workers)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise StartupError(f"cannot listen on {addr}: {error.strerror or error}{remedy}") from error


def is_loopback(sockets: Sockets) -> bool:
    """Return whether only this machine can reach the sockets."""
    names = [one.getsockname() for one in sockets.sockets if one is not None]
    return sockets.unix or all(ipaddress.ip_address(name[0]).is_loopback for name in names)


def is_inherited(environ: Mapping[str, str]) -> bool:
    """Return whether systemd has passed sockets down to this process."""
    return environ.get("LISTEN_PID") == str(os.getpid()) and environ.get("LISTEN_FDS", "") not in {"", "0"}


def inherited(environ: MutableMapping[str, str]) -> Sockets | None:
    """Return the socket that systemd passed down, None if there is none.  Raises `StartupError` for more than one.

    The variables are removed from `environ`, so that children do not use them.
    """
    there, count = is_inherited(environ), environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(name, None)
    if not there:
        return None
    if count != "1":
        raise StartupError(
            f"systemd passed {count} sockets; only one can be served: "
            "leave one ListenStream= line in the socket unit"
        )
    try:
        found = socket.socket(fileno=_FIRST_INHERITED)
        found.set_inheritable(False)
        if found.type != socket.SOCK_STREAM:
            raise StartupError(
                "systemd passed a socket that is no stream socket: use ListenStream= in the socket unit"
            )
        found.listen(BACKLOG)
        if found.family != socket.AF_UNIX:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise StartupError(f"systemd passed no usable socket: {error.strerror or error}") from error
    return Sockets(shared=True, sockets=[found])


def _tcp(addr: str, workers: int) -> Sockets:
    family, host, port = _resolve(addr)
    first = _bound(family, host, port, share=False)
    if workers == 1:
        first.listen(BACKLOG)
        return Sockets(shared=True, sockets=[first])
    # Set only now: another server on the port has got EADDRINUSE by then, instead of sharing it.
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port = first.getsockname()[1]
    sockets: list[socket.socket | None] = [first]
    first.listen(BACKLOG)
    sockets += [_listening(family, host, port, share=True) for _ in range(workers - 1)]
    group = list(range(workers))
    return Sockets(shared=False, sockets=sockets, _address=(family, host, port), _group=group)


def _resolve(addr: str) -> tuple[int, str, int]:
    """Return family, address and port; an empty or unspecified host is every interface of both families, as in Go.

    Raises `StartupError`.
    """
    try:
        host, port = host_and_port(addr)
    except ValueError as error:
        raise StartupError(f"cannot listen on {addr!r}: {error}") from error
    if host in UNSPECIFIED:
        return (socket.AF_INET6, "::", port) if _has_ipv6() else (socket.AF_INET, "0.0.0.0", port)  # noqa: S104
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StartupError(f"cannot listen on {addr}: {error.strerror}") from error
    # Go listens on the first IPv4 address of a name, if it has one.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, str(address[0]), port


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _listening(family: int, host: str, port: int, *, share: bool) -> socket.socket:
    made = _bound(family, host, port, share=share)
    made.listen(BACKLOG)
    return made


def _bound(family: int, host: str, port: int, *, share: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit it: the last piece of an answer does not wait for an acknowledgement.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host != "::" else 0)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def _unix(path: str) -> Sockets:
    """Raises `StartupError` and OSError."""
    _clear(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return Sockets(shared=True, sockets=[made], path=path)


def _clear(path: str) -> None:
    """Remove the socket of a server that has ended; other files are errors.  Raises `StartupError`, OSError."""
    if check_socket(path):
        Path(path).unlink()


def check_socket(path: str) -> bool:
    """Return whether there is the socket of a server that has ended.

    Raises `StartupError` for another file and for a server that answers, OSError where its type cannot be read.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"cannot listen on {path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return True
            raise
    raise StartupError(f"cannot listen on {path}: another server answers there")
