"""TLS: pulls compared with nginx and the peers, pushes with the peers and with Moorage over plain HTTP.

The client reads and writes with OpenSSL, on the cores that the server does not have (`transfers.py`).
"""

from __future__ import annotations

import os
import socket
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Final

from bench import certificates, servers
from bench.client import Client
from bench.rows.base import Bench, Row
from bench.rows.transfers import NAME, buffer, metrics, pulled, pushed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.content import Blob

__all__ = ["ROWS"]


def _pull(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    tls, trusting = certificates.issue(root)
    blob = buffer().fresh()
    with servers.start(side, root / "data", [bench.server_cpu], tls=tls) as server:
        connect = partial(Client, server.port, secure=trusting)
        with connect() as client:
            client.push(NAME, blob)
        os.sync()
        return pulled(bench, server, connect, f"/v2/{NAME}/blobs/{blob.digest}")


def _pull_beside_nginx(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """Compare Moorage with nginx that serves the same bytes from a file."""
    if side == servers.MOORAGE:
        return _pull(bench, side, root)
    tls, trusting = certificates.issue(root)
    (root / "data").mkdir()
    (root / "data/blob").write_bytes(buffer().fresh().data)
    with servers.start_nginx(root / "data", [bench.server_cpu], tls, _free_port()) as server:
        os.sync()
        return pulled(bench, server, partial(Client, server.port, secure=trusting), "/blob")


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return int(probe.getsockname()[1])


def _push_beside_plain(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """Compare Moorage with TLS and without."""
    return _push(bench, servers.MOORAGE, root, Client.push, secure=side == servers.MOORAGE)


def _push_in_chunks(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    return _push(bench, side, root, Client.push_in_chunks, secure=True)


def _push(
    bench: Bench, side: str, root: Path, push: Callable[[Client, str, Blob], None], *, secure: bool
) -> Mapping[str, float]:
    tls, trusting = certificates.issue(root)
    with servers.start(side, root / "data", [bench.server_cpu], tls=tls if secure else None) as server:
        return pushed(bench, server, partial(Client, server.port, secure=trusting if secure else None), push)


_BESIDE_PEERS: Final = metrics(rates={"distribution": 1.2, "zot": 1.0}, cpus={"distribution": 0.85})

ROWS: Final = (
    Row(
        "tls-get-large",
        "GET of a 256 MiB blob over TLS",
        metrics(1.2, 0.75),
        alone=_pull_beside_nginx,
        peer="nginx with the same certificate",
        programs=("nginx",),
    ),
    Row("tls-get", "GET of a 256 MiB blob over TLS", _BESIDE_PEERS, alone=_pull),
    Row(
        "tls-push-chunked",
        "push of a 256 MiB blob over TLS in HTTP chunks of 32 KiB",
        _BESIDE_PEERS,
        alone=_push_in_chunks,
    ),
    Row(
        "tls-push-large",
        "push of a 256 MiB blob over TLS",
        metrics(0.6),
        alone=_push_beside_plain,
        peer="Moorage without TLS",
    ),
)
