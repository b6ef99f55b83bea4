"""Small responses: manifests by tag, HEAD, a blob of 1 KiB.  32 connections, one core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench import content, load
from bench.client import ACCEPT, Client
from bench.rows.base import Bench, Metric, Row, latency, load_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.servers import Server

__all__ = ["CONNECTIONS", "MANIFEST_GET", "NAME", "ROWS", "fill"]

CONNECTIONS: Final = 32
NAME: Final = "library/bench"
_IMAGE: Final = content.image(layers=10, layer_size=1024)
MANIFEST_GET: Final = load_request("GET", f"/v2/{NAME}/manifests/latest", accept=ACCEPT)
_MANIFEST_HEAD: Final = load_request("HEAD", f"/v2/{NAME}/manifests/latest", accept=ACCEPT)
_BLOB_GET: Final = load_request("GET", f"/v2/{NAME}/blobs/{_IMAGE.blobs[0].digest}")
_BLOB_HEAD: Final = load_request("HEAD", f"/v2/{NAME}/blobs/{_IMAGE.blobs[0].digest}")


def fill(_bench: Bench, server: Server) -> None:
    """Push one image of ten layers, and check the bodies that its manifest and a layer are answered with."""
    with Client(server.port) as client:
        client.push_image(NAME, "latest", _IMAGE)
        manifest = client.expect(200, "GET", f"/v2/{NAME}/manifests/latest")
        layer = client.expect(200, "GET", f"/v2/{NAME}/blobs/{_IMAGE.blobs[0].digest}")
    if manifest.body != _IMAGE.manifest or layer.body != _IMAGE.blobs[0].data:
        raise load.LoadFailed(f"{server.side} answers other bytes than were pushed")


def _row(name: str, title: str, request: bytes, goal: float, beside_distribution: float) -> Row:
    goals = {"distribution": beside_distribution, "zot": 1.0}
    return Row(
        name,
        title,
        (
            Metric("requests", "requests/s", "higher", goal, goals=goals),
            Metric("cpu_us", "server CPU us/request", "lower"),
            *latency(goals={"zot": 1.0}),
        ),
        _measure(request),
        fill,
    )


def _measure(request: bytes) -> Callable[[Bench, Server], Mapping[str, float]]:
    def measure(bench: Bench, server: Server) -> dict[str, float]:
        cpu = server.cpu_s()
        result = load.run(
            server.port, request, connections=CONNECTIONS, seconds=bench.seconds, cpus=bench.load_cpus
        )
        # The CPU time includes the warm-up, so the count of responses does, too.
        used = (server.cpu_s() - cpu) / result.answers * 1e6
        return {
            "requests": result.per_s,
            "cpu_us": used,
            **result.latency,
            "generator_busy": result.busy,
        }

    return measure


ROWS: Final = (
    _row("manifest-get", "GET manifest by tag", MANIFEST_GET, 8, 4),
    _row("manifest-head", "HEAD manifest by tag", _MANIFEST_HEAD, 8, 4),
    _row("blob-head", "HEAD blob", _BLOB_HEAD, 8, 3),
    _row("blob-get-small", "GET of a 1 KiB blob", _BLOB_GET, 15, 15),
)
