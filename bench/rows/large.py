"""Large blobs without TLS: one client pulls and pushes 256 MiB, one after the other."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from bench import load
from bench.client import Client
from bench.rows.base import Bench, Row
from bench.rows.transfers import NAME, buffer, metrics, pulled, pushed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.servers import Server

__all__ = ["ROWS"]


def _prepare(_bench: Bench, server: Server) -> None:
    blob = buffer().fresh()
    with Client(server.port) as client:
        client.push(NAME, blob)
        if client.expect(200, "GET", f"/v2/{NAME}/blobs/{blob.digest}").body != blob.data:
            raise load.LoadFailed(f"{server.side} answers other bytes than were pushed")
    (server.root / "digest").write_text(blob.digest)


def _pull(bench: Bench, server: Server) -> Mapping[str, float]:
    target = f"/v2/{NAME}/blobs/{(server.root / 'digest').read_text()}"
    return pulled(bench, server, partial(Client, server.port), target)


def _push(bench: Bench, server: Server) -> Mapping[str, float]:
    return pushed(bench, server, partial(Client, server.port), Client.push)


def _push_in_chunks(bench: Bench, server: Server) -> Mapping[str, float]:
    return pushed(bench, server, partial(Client, server.port), Client.push_in_chunks)


ROWS: Final = (
    Row(
        "blob-get-large",
        "GET of a 256 MiB blob",
        metrics(1.0, 0.8, rates={"distribution": 1.5, "zot": 1.0}, cpus={"distribution": 0.6}),
        _pull,
        _prepare,
    ),
    Row(
        "blob-push-large",
        "push of a 256 MiB blob (POST, PATCH, PUT)",
        metrics(2.0, 0.5, rates={"distribution": 1.25, "zot": 1.0}, cpus={"distribution": 0.85}),
        _push,
    ),
    Row(
        "blob-push-chunked",
        "the same in HTTP chunks of 32 KiB, as Docker, skopeo and podman send it",
        metrics(rates={"distribution": 1.2, "zot": 1.0}, cpus={"distribution": 0.85}),
        _push_in_chunks,
    ),
)
