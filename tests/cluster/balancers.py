"""nginx or HAProxy in front of nodes, turn by turn and without sticky sessions.

The test binds the listening socket and passes it down (HAProxy's `fd@`, nginx's variable NGINX), so the kernel
chooses the port and no other process can take it.  The documented configurations have tests of their own
(`tests/deploying`); these have only what a cluster needs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

from tests.live import require
from tests.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["balanced"]

_START_LIMIT_S: Final = 20.0

_HAPROXY: Final = """\
global
    maxconn 500
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option redispatch 1
    http-reuse never
listen registry
    bind fd@{fd}
    balance roundrobin
{servers}
"""

_NGINX: Final = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
daemon off;
events {{ worker_connections 500; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    upstream nodes {{
{servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""


@contextlib.contextmanager
def balanced(kind: str, folder: Path, hosts: Sequence[str]) -> Iterator[str]:
    """`127.0.0.1:PORT` that hands each request to the next of `hosts`, and to another one if that is down."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command, environment = (
            _haproxy(folder, listener, hosts) if kind == "haproxy" else _nginx(folder, listener, hosts)
        )
        with (folder / "output.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                env={**os.environ, **environment},
            )
    try:
        _wait(process, f"127.0.0.1:{port}", folder)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()


def _haproxy(folder: Path, listener: socket.socket, hosts: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    servers = "\n".join(f"    server node{number} {host} check inter 200ms" for number, host in enumerate(hosts))
    (folder / "haproxy.cfg").write_text(_HAPROXY.format(fd=listener.fileno(), servers=servers))
    return [require("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], {}


def _nginx(folder: Path, listener: socket.socket, hosts: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    servers = "\n".join(f"        server {host} max_fails=1 fail_timeout=1s;" for host in hosts)
    port = listener.getsockname()[1]
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port, servers=servers))
    command = [require("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    return command, {"NGINX": f"{listener.fileno()};"}


def _wait(process: subprocess.Popen[bytes], host: str, folder: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if Wire(host, timeout_s=5).send("GET", "/v2/").status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"the balancer does not answer:\n{(folder / 'output.log').read_text(errors='replace')}")
