"""Liveness check of the registry on this machine, for `moorage health`: requests `/livez` of the running server.

Imports little, because orchestrators call it every few seconds.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from moorage.config.listener import Listener, listener
from moorage.config.problems import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["DEFAULT_TIMEOUT_S", "Dead", "check", "parse", "run", "served_configuration"]

DEFAULT_TIMEOUT_S: Final = 5.0
_ANSWER_LIMIT_BYTES: Final = 64 << 10
_REQUEST: Final = (
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\nUser-Agent: moorage-health\r\nConnection: close\r\n\r\n"
)
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_ARGUMENTS: Final = re.compile(
    r"(?:--timeout[=\0](?P<timeout>\d{1,3}(?:\.\d{1,3})?)(?:\0|\Z))?(?P<config>[^-\0][^\0]*)?", re.ASCII
)
_PROGRAMS: Final = frozenset({"moorage", "registry", "entrypoint.sh"})


class Dead(Exception):
    """The registry does not answer; the message is the reason, one sentence."""


class _Arguments(NamedTuple):
    config: Path | None
    timeout_s: float


class _Source(NamedTuple):
    config: Path | None
    defaults: bool


def parse(arguments: Sequence[str]) -> _Arguments | None:
    """Return the arguments in their usual forms; None for all others, which Typer parses, explains or refuses."""
    match = _ARGUMENTS.fullmatch("\0".join(arguments))
    if match is None or "" in arguments:
        return None
    timeout_s = float(match["timeout"] or DEFAULT_TIMEOUT_S)
    return _Arguments(Path(match["config"]) if match["config"] else None, timeout_s) if timeout_s > 0 else None


def run(config: Path | None, timeout_s: float) -> int:
    """Print one sentence and return the exit status: 0 alive, 1 not."""
    try:
        sys.stdout.write(f"alive: {check(config, os.environ, timeout_s)}\n")
    except ConfigError as error:
        reason = str(error).replace("\n", "; ")
        sys.stderr.write(f"liveness unknown: the configuration cannot be used: {reason}\n")
        return 1
    except Dead as error:
        sys.stderr.write(f"not alive: {error}\n")
        return 1
    return 0


def check(config: Path | None, environ: Mapping[str, str], timeout_s: float) -> str:
    """Ask the registry; return what has answered.  Raises `Dead` and `ConfigError`."""
    source = _Source(config, defaults=False)
    if config is None and not environ.get("REGISTRY_CONFIGURATION_PATH"):
        source = served_configuration() or source
    found = listener(source.config, environ, defaults=source.defaults)
    deadline = time.monotonic() + timeout_s
    scheme = "unix:" if found.net == "unix" else "https://" if found.tls else "http://"
    reason = ""
    for name, target in _targets(found):
        try:
            with _connect(target, deadline) as connection:
                return f"{scheme}{name} {_request(connection, found, deadline)}"
        except TimeoutError:
            raise Dead(f"no answer from {scheme}{name} within {timeout_s:g} s") from None
        except ConnectionRefusedError:
            reason = reason or f"nothing listens on {name} (http.addr); is the registry running?"
        except UnicodeError:  # of the encoding of host names
            raise Dead(f"http.addr is {found.addr!r}: not a host name") from None
        except OSError as error:
            reason = reason or f"no connection to {name} (http.addr): {error.strerror or error}"
    raise Dead(reason)


def served_configuration(process: str = "/proc/1") -> _Source | None:
    """Return what the first process of this container was started with, if it is a registry.

    `docker run IMAGE serve FILE` names a file that the health check of the image is not given.
    """
    try:
        words = Path(process, "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        return None
    at = next((at for at, word in enumerate(words) if word.rpartition("/")[2] in _PROGRAMS), None)
    if at is None:
        return None
    rest = list(itertools.dropwhile(lambda word: word.rpartition("/")[2] in _PROGRAMS, words[at + 1 :]))
    rest = rest[1:] if rest[:1] == ["serve"] else [word for word in rest if word.endswith((".yml", ".yaml"))]
    if "--defaults" in rest:
        return _Source(None, defaults=True)
    file = next((word for word in rest if not word.startswith("-")), None)
    if file is None:
        return None
    try:
        return _Source(Path(Path(process, "cwd").readlink(), file), defaults=False)
    except OSError:
        return _Source(Path(file), defaults=False)


def _targets(found: Listener) -> Iterator[tuple[str, str | tuple[str, int]]]:
    """Yield name and address of each endpoint to try; both loopback addresses for `0.0.0.0`.  Raises `Dead`."""
    if found.net == "unix":
        yield found.addr, found.addr
        return
    from moorage.config.addresses import UNSPECIFIED, host_and_port

    try:
        host, port = host_and_port(found.addr)
    except ValueError as error:
        raise Dead(f"http.addr is {found.addr!r}: {error}") from error
    if port == 0:
        raise Dead(f"http.addr is {found.addr!r}, a random port: name one to check the health of the registry")
    for one in ("127.0.0.1", "::1") if host in UNSPECIFIED else (host,):
        yield f"[{one}]:{port}" if ":" in one else f"{one}:{port}", (one, port)


def _connect(target: str | tuple[str, int], deadline: float) -> socket.socket:
    """Return a connection.  Raises OSError."""
    if isinstance(target, tuple):
        return socket.create_connection(target, timeout=_left(deadline))
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(_left(deadline))
        made.connect(target)
    except BaseException:
        made.close()
        raise
    return made


def _request(connection: socket.socket, found: Listener, deadline: float) -> str:
    """Return what the registry has answered.  Raises `Dead`, OSError; TimeoutError after `deadline`."""
    if not found.tls:
        return _answered(connection, deadline)
    if found.acme_directory:
        from moorage.acme.order_spec import served_file

        if not Path(served_file(found.acme_directory, found.acme_hosts)).exists():
            return "awaits its certificate"
    import ssl

    # Connects to this machine, by an address that no certificate names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        connection.settimeout(_left(deadline))
        with context.wrap_socket(connection) as secured:
            return _answered(secured, deadline)
    except ssl.SSLError as error:
        # TimeoutError is another class.  A server that requires a client certificate refuses one without.
        if "ALERT" in (error.reason or ""):
            return "answers, and requires a client certificate"
        if isinstance(error, ssl.SSLEOFError):
            raise Dead("closed without an answer") from error
        raise Dead(f"http.tls is configured, but the answer is not TLS: {error.reason or error}") from error


def _answered(connection: socket.socket, deadline: float) -> str:
    connection.settimeout(_left(deadline))
    connection.sendall(_REQUEST)
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _ANSWER_LIMIT_BYTES:
        connection.settimeout(_left(deadline))
        part = connection.recv(4096)
        if not part:
            break
        answer += part
    status = _STATUS.match(answer)
    if status is None:
        raise Dead(f"the answer is not HTTP/1.1: {answer[:40]!r}" if answer else "closed without an answer")
    if status[1] != b"200":
        raise Dead(f"/livez answers {status[1].decode()}; is it another server that listens there?")
    return "answers"


def _left(deadline: float) -> float:
    """Seconds until `deadline`.  Raises TimeoutError."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
