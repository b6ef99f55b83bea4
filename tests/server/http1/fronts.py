"""nginx, HAProxy and Apache httpd in front of the HTTP/1.1 server: plain HTTP, connections to the back end reused.

They speak HTTP/1.1 to clients, on a second port HTTP/2 without TLS, and HTTP/1.1 to the back end.

Each in two configurations: with the grammar that it has by default, and as lenient as it can be made, so that more
of a malformed message reaches the back end.  One process (nginx, Apache) or thread (HAProxy) handles all clients:
what one client has left in a connection to the back end is met by the next one.

Each writes a header of its own, `FRONT_HEADER`, into the requests that it has parsed; what lacks it was smuggled.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests import reverse_proxies
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FRONTS", "FRONT_HEADER", "Front", "front_end"]

FRONTS: Final = ("nginx", "nginx-lenient", "haproxy", "haproxy-lenient", "apache", "apache-lenient")
FRONT_HEADER: Final = b"x-front"

_NGINX: Final = """
upstream back {{
    server 127.0.0.1:{back} max_fails=0;
    keepalive 8;
}}
server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{http2_port} http2;
    client_max_body_size 0;
    {lenient}
    location / {{
        proxy_pass http://back;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Front nginx;
        proxy_request_buffering off;
        proxy_ignore_client_abort on;
    }}
}}
"""
_NGINX_LENIENT: Final = "ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;"

_HAPROXY: Final = """
global
    nbthread 1
defaults
    mode http
    timeout connect 30s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend clients
    bind 127.0.0.1:{port}
    bind 127.0.0.1:{http2_port} proto h2
    {lenient}
    http-request set-header X-Front haproxy
    default_backend back
backend back
    server back 127.0.0.1:{back}
"""
_HAPROXY_LENIENT: Final = "option accept-invalid-http-request"

_APACHE: Final = """
ServerLimit 1
StartServers 1
ThreadLimit 32
ThreadsPerChild 32
MaxRequestWorkers 32
MinSpareThreads 1
MaxSpareThreads 32
{lenient}
Listen 127.0.0.1:{http2_port}
<VirtualHost 127.0.0.1:{http2_port}>
    Protocols h2c http/1.1
    ProxyPreserveHost On
    AllowEncodedSlashes NoDecode
</VirtualHost>
RequestHeader set X-Front apache
AllowEncodedSlashes NoDecode
ProxyPreserveHost On
ProxyPass / http://127.0.0.1:{back}/ enablereuse=on keepalive=On max=1 nocanon
"""
_APACHE_LENIENT: Final = "HttpProtocolOptions Unsafe LenientMethods Allow0.9"
_APACHE_MODULES: Final = ("mpm_event", "authz_core", "headers", "http2", "proxy", "proxy_http")

_CONFIGURATIONS: Final = {
    "nginx": (_NGINX, _NGINX_LENIENT),
    "haproxy": (_HAPROXY, _HAPROXY_LENIENT),
    "apache": (_APACHE, _APACHE_LENIENT),
}


@dataclass(frozen=True)
class Front:
    """A running front end.  `pool` limits its connections to the back end; None without a limit."""

    kind: str
    port: int
    http2_port: int
    pool: int | None


@contextlib.contextmanager
def front_end(name: str, folder: Path, back: int) -> Iterator[Front]:
    """Run one of `FRONTS` in front of port `back` until the end of the block."""
    kind, _, lenient = name.partition("-")
    http2_ports: dict[int, int] = {}

    def command(port: int) -> list[str]:
        http2_ports[port] = free_port()
        text, options = _CONFIGURATIONS[kind]
        places = {"port": port, "http2_port": http2_ports[port], "back": back}
        text = text.format(**places, lenient=options if lenient else "")
        if kind == "nginx":
            return reverse_proxies.nginx(folder, text, workers=1)
        if kind == "haproxy":
            return reverse_proxies.haproxy(folder, text)
        return reverse_proxies.apache(folder, port, _APACHE_MODULES, text)

    def build(_: object, port: int) -> Front:
        return Front(kind, port, http2_ports[port], pool=1 if kind == "apache" else None)

    with reverse_proxies.started(folder, command, build, _listens) as front:
        yield front


def _listens(front: Front) -> bool:
    """Return whether it accepts connections: the back end of the same thread cannot answer meanwhile."""
    try:
        for port in (front.port, front.http2_port):
            socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True
