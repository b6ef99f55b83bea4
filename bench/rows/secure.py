"""TLS: pulls beside nginx with the same certificate, pushes beside our own plain listener.

The client reads and writes with OpenSSL, on the cores that the server does not have; `client` is how busy it was,
and the number means something only while that stays well below 1.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Final, Protocol, Self

import trustme

from bench import content, servers
from bench.client import Client
from bench.h2client import H2Client
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.content import Blob
    from bench.servers import Server

__all__ = ["ROWS"]

_SIZE: Final = 256 << 20
_NAME: Final = "library/large"
_MB: Final = 1e6
_GIB: Final = 1 << 30
_BUSY: Final = Metric("client", "of a core, the client", "lower")
_CPU: Final = Metric("cpu", "server CPU s/GiB", "lower")


class _Pusher(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def push(self, name: str, blob: Blob) -> None: ...


@cache
def _buffer() -> content.Stamped:
    return content.Stamped(_SIZE)


def _certificate(folder: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """Files for the server, EC on P-256 as Let's Encrypt gives it, and what a client trusts."""
    folder.mkdir(parents=True)
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    paths = {"certificate": str(folder / "crt"), "key": str(folder / "key")}
    issued.cert_chain_pems[0].write_to_path(paths["certificate"])
    issued.private_key_pem.write_to_path(paths["key"])
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return paths, trusting


def _pull(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    tls, trusting = _certificate(root)
    blob = _buffer().fresh()
    if side == servers.OURS:
        server = servers.start(side, root / "data", [bench.server_cpu], tls=tls)
        target = f"/v2/{_NAME}/blobs/{blob.digest}"
        with Client(server.port, secure=trusting) as client:
            client.push(_NAME, blob)
    else:
        (root / "data").mkdir()
        (root / "data/blob").write_bytes(blob.data)
        server = servers.start_nginx(root / "data", [bench.server_cpu], tls, _free_port())
        target = "/blob"
    os.sync()
    times = bench.pick(4, 12)

    def work() -> None:
        with Client(server.port, secure=trusting) as client:
            for _ in range(times):
                client.download(target, _SIZE)

    with server:
        return _measured(server, times * _SIZE, work)


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def _push_http1(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    return _push(bench, side, root, lambda port, trusting: Client(port, secure=trusting))


def _push_http2(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    def connect(port: int, trusting: ssl.SSLContext) -> H2Client:
        trusting.set_alpn_protocols(["h2"])
        return H2Client(port, trusting)

    return _push(bench, side, root, connect)


def _push(
    bench: Bench, side: str, root: Path, connect: Callable[[int, ssl.SSLContext], _Pusher]
) -> Mapping[str, float]:
    """Over TLS on our side; the other is ours without."""
    tls, trusting = _certificate(root)
    secure = side == servers.OURS
    server = servers.start(servers.OURS, root / "data", [bench.server_cpu], tls=tls if secure else None)
    times = bench.pick(2, 4)
    sums: dict[str, float] = {}
    with server, connect(server.port, trusting) if secure else Client(server.port) as pusher:
        for _ in range(times):
            blob = _buffer().fresh()
            one = _measured(server, _SIZE, lambda blob=blob: pusher.push(_NAME, blob))  # type: ignore[misc]
            sums = {name: sums.get(name, 0) + number for name, number in one.items()}
            # The next push finds the same empty disk and an idle one.
            shutil.rmtree(server.root / "docker/registry/v2/blobs")
            os.sync()
    return {name: number / times for name, number in sums.items()}


def _measured(server: Server, size: int, work: Callable[[], None]) -> Mapping[str, float]:
    cpu, busy, began = server.cpu_s(), time.process_time(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    return {
        "rate": size / _MB / wall,
        "cpu": (server.cpu_s() - cpu) * _GIB / size,
        "client": (time.process_time() - busy) / wall,
    }


ROWS: Final = (
    Row(
        "tls-get-large",
        "GET of a 256 MiB blob over TLS",
        (Metric("rate", "MB/s", "higher", 0.9), _CPU, _BUSY),
        alone=_pull,
        peer="nginx with the same certificate",
    ),
    Row(
        "tls-push-large",
        "push of a 256 MiB blob over TLS, HTTP/1.1",
        (Metric("rate", "MB/s", "higher", 0.6), _CPU, _BUSY),
        alone=_push_http1,
        peer="Moorage without TLS",
    ),
    Row(
        "tls-push-http2",
        "push of a 256 MiB blob over TLS, HTTP/2",
        (Metric("rate", "MB/s", "higher", 0.6), _CPU, _BUSY),
        alone=_push_http2,
        peer="Moorage without TLS, HTTP/1.1",
    ),
)
