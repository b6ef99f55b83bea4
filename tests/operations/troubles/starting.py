"""Troubles of a registry that does not start."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operations.troubles.desk import Desk, Output

__all__ = ["SCENES"]

_CONFIG: Final = """\
version: 0.1
storage: {filesystem: {rootdirectory: DATA}}
http: {addr: "127.0.0.1:0", secret: a long random text of this node}
"""


def address_in_use(desk: Desk) -> Output:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return {"log": desk.start_fails(_CONFIG.replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}"))}


def low_port(desk: Desk) -> Output:
    return {"log": desk.start_fails(_CONFIG.replace("127.0.0.1:0", "127.0.0.1:443"), *desk.as_nobody())}


def unknown_key(desk: Desk) -> Output:
    return {"log": desk.start_fails(_CONFIG + "atuh: {htpasswd: {realm: r, path: /etc/htpasswd}}\n")}


def no_storage(desk: Desk) -> Output:
    return {"log": desk.start_fails('version: 0.1\nstorage: {minio: {}}\nhttp: {addr: ":5000"}\n')}


def forbidden_directory(desk: Desk) -> Output:
    folder = desk.new()
    (folder / "data").mkdir(mode=0o700)
    config = _CONFIG.replace("DATA", str(folder / "data"))
    found = desk.start_fails(config, *desk.as_nobody())
    return {"log": found.replace(str(folder / "data"), "/var/lib/registry")}


def broken_yaml(desk: Desk) -> Output:
    return {"log": desk.start_fails(_CONFIG.replace("http:", "  http:"))}


def later(desk: Desk) -> Output:
    return {"log": desk.start_fails(_CONFIG + "notifications: {endpoints: [{url: http://events.example.com}]}\n")}


def sample_secret(desk: Desk) -> Output:
    return {
        "log": desk.start_fails(_CONFIG.replace("a long random text of this node", "asecretforlocaldevelopment"))
    }


def wrong_key(desk: Desk) -> Output:
    one, two = desk.certificate(), desk.certificate()
    tls = f"tls: {{certificate: {one['certificate']}, key: {two['key']}}}"
    found = desk.start_fails(_CONFIG.replace("http: {", f"http: {{{tls}, "))
    return {"log": found.replace(one["certificate"], "/certs/server.crt").replace(two["key"], "/certs/server.key")}


SCENES: dict[str, Callable[[Desk], Output]] = {
    "`Address already in use`": address_in_use,
    "`Permission denied` for a port below 1024": low_port,
    "`storage.filesystem.rootdirectory cannot be used`": forbidden_directory,
    "`unknown key`": unknown_key,
    "`is not a storage driver`": no_storage,
    "`not YAML`": broken_yaml,
    "`is not available in this version of Moorage`": later,
    "`is a published sample secret`": sample_secret,
    "`the key ... does not belong to ...`": wrong_key,
}
