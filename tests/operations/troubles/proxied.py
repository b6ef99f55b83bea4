"""Troubles of a proxy before the registry."""

from __future__ import annotations

import getpass
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.clients.secure import NAME
from tests.live import require
from tests.ports import free_port
from tests.server.debugging import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.operations.troubles.desk import Desk, Output

__all__ = ["SCENES", "SLOW"]

_NGINX: Final = """\
user {user};
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
daemon off;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen [::1]:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        {settings}
        location / {{
            proxy_pass http://{host};
            proxy_set_header Host $http_host;
            {headers}
        }}
    }}
}}
"""
"""As it is written without the guide: each scene leaves one thing out."""


@contextmanager
def nginx(
    desk: Desk,
    host: str,
    *,
    settings: str = "client_max_body_size 0;",
    headers: str = "proxy_set_header X-Forwarded-Proto https;",
) -> Iterator[str]:
    """Run nginx with TLS in front of `host`; what clients call it."""
    folder, port = desk.new(), free_port()
    tls = desk.certificate()
    desk.place.trust(f"{NAME}:{port}", ca_crt=desk.ca.pem)
    (folder / "nginx.conf").write_text(
        _NGINX.format(
            folder=folder, port=port, host=host, user=getpass.getuser(), settings=settings, headers=headers, **tls
        )
    )
    folder.chmod(0o755)
    process = subprocess.Popen(
        [require("nginx"), "-p", str(folder), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
    )
    try:
        until(lambda: (folder / "nginx.pid").exists() and (folder / "nginx.pid").read_text(), "nginx")
        yield f"{NAME}:{port}"
    finally:
        process.terminate()
        process.wait(20)


def small_bodies(desk: Desk) -> Output:
    live = desk.serve()
    host = desk.stack.enter_context(nginx(desk, live.host, settings=""))
    return {
        "docker push": desk.docker_push(host, size="large"),
        "podman push": desk.podman_push(host, "--tls-verify=true", size="large"),
        "skopeo copy": desk.skopeo_push(host, "--dest-tls-verify=true", size="large"),
    }


def no_forwarded_scheme(desk: Desk) -> Output:
    live = desk.serve()
    host = desk.stack.enter_context(nginx(desk, live.host, headers=""))
    return {"docker push": desk.docker_push(host), "skopeo copy": desk.skopeo_push(host, "--dest-tls-verify=true")}


def dead_node(desk: Desk) -> Output:
    live = desk.serve()
    host = desk.stack.enter_context(nginx(desk, live.host))
    live.stop()
    return {"docker pull": desk.docker_pull(host), "skopeo copy": desk.skopeo_push(host, "--dest-tls-verify=true")}


SCENES: dict[str, Callable[[Desk], Output]] = {
    "`400 The plain HTTP request was sent to HTTPS port`": no_forwarded_scheme,
    "`502 Bad Gateway`": dead_node,
}

SLOW: dict[str, Callable[[Desk], Output]] = {"`413 Request Entity Too Large`": small_bodies}
"""Docker repeats the upload of a layer for 50 seconds."""
