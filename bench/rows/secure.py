"""TLS: pulls beside nginx and the peers with the same certificate, pushes beside the peers and our plain listener.

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
from typing import TYPE_CHECKING, Final

import trustme

from bench import content, servers
from bench.client import Client
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


def _push_beside_plain(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """Over TLS on our side; the other is ours without."""
    return _push(bench, servers.OURS, root, Client.push, secure=side == servers.OURS)


def _push_in_chunks(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    return _push(bench, side, root, Client.push_in_chunks, secure=True)


def _push(
    bench: Bench, side: str, root: Path, push: Callable[[Client, str, Blob], None], *, secure: bool
) -> Mapping[str, float]:
    tls, trusting = _certificate(root)
    server = servers.start(side, root / "data", [bench.server_cpu], tls=tls if secure else None)
    times = bench.pick(2, 4)
    sums: dict[str, float] = {}
    with server, Client(server.port, secure=trusting if secure else None) as client:
        for _ in range(times):
            blob = _buffer().fresh()
            one = _measured(server, _SIZE, lambda blob=blob: push(client, _NAME, blob))  # type: ignore[misc]
            sums = {name: sums.get(name, 0) + number for name, number in one.items()}
            # The next push finds the same empty disk and an idle one.
            shutil.rmtree(server.root / "docker/registry/v2/blobs", ignore_errors=True)  # zot has another layout
            os.sync()
    return {name: number / times for name, number in sums.items()}


def _pull_from_each(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    tls, trusting = _certificate(root)
    blob = _buffer().fresh()
    with (
        servers.start(side, root / "data", [bench.server_cpu], tls=tls) as server,
        Client(server.port, secure=trusting) as client,
    ):
        client.push(_NAME, blob)
        os.sync()
        times, target = bench.pick(4, 12), f"/v2/{_NAME}/blobs/{blob.digest}"

        def work() -> None:
            for _ in range(times):
                client.download(target, _SIZE)

        return _measured(server, times * _SIZE, work)


def _measured(server: Server, size: int, work: Callable[[], None]) -> Mapping[str, float]:
    cpu, busy, began = server.cpu_s(), time.process_time(), time.perf_counter()
    work()
    wall = time.perf_counter() - began
    return {
        "rate": size / _MB / wall,
        "cpu": (server.cpu_s() - cpu) * _GIB / size,
        "client": (time.process_time() - busy) / wall,
    }


_GOALS: Final = {"distribution": 1.2, "zot": 1.0}

ROWS: Final = (
    Row(
        "tls-get-large",
        "GET of a 256 MiB blob over TLS",
        (Metric("rate", "MB/s", "higher", 1.2), Metric("cpu", _CPU.unit, "lower", 0.75), _BUSY),
        alone=_pull,
        peer="nginx with the same certificate",
    ),
    Row(
        "tls-get",
        "GET of a 256 MiB blob over TLS",
        (
            Metric("rate", "MB/s", "higher", goals=_GOALS),
            Metric("cpu", _CPU.unit, "lower", goals={"distribution": 0.85}),
            _BUSY,
        ),
        alone=_pull_from_each,
    ),
    Row(
        "tls-push-chunked",
        "push of a 256 MiB blob over TLS in HTTP chunks of 32 KiB",
        (
            Metric("rate", "MB/s", "higher", goals=_GOALS),
            Metric("cpu", _CPU.unit, "lower", goals={"distribution": 0.85}),
            _BUSY,
        ),
        alone=_push_in_chunks,
    ),
    Row(
        "tls-push-large",
        "push of a 256 MiB blob over TLS",
        (Metric("rate", "MB/s", "higher", 0.6), _CPU, _BUSY),
        alone=_push_beside_plain,
        peer="Moorage without TLS",
    ),
)
