"""Large blobs: one client pulls and pushes 256 MiB, one after the other."""

from __future__ import annotations

import os
import shutil
import time
from functools import cache
from typing import TYPE_CHECKING, Final

from bench import content, load
from bench.client import Client
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.content import Blob
    from bench.servers import Server

__all__ = ["ROWS"]

_SIZE: Final = 256 << 20
_NAME: Final = "library/large"
_MB: Final = 1e6
_GIB: Final = 1 << 30


@cache
def _buffer() -> content.Stamped:
    return content.Stamped(_SIZE)


def _prepare(_bench: Bench, server: Server) -> None:
    blob = _buffer().fresh()
    with Client(server.port) as client:
        client.push(_NAME, blob)
        if client.expect(200, "GET", f"/v2/{_NAME}/blobs/{blob.digest}").body != blob.data:
            raise load.LoadFailed(f"{server.side} answers other bytes than were pushed")
    (server.root / "digest").write_text(blob.digest)


def _timed(server: Server, work: Callable[[], None]) -> tuple[float, float]:
    cpu, began = server.cpu_s(), time.perf_counter()
    work()
    return time.perf_counter() - began, server.cpu_s() - cpu


def _pull(bench: Bench, server: Server) -> Mapping[str, float]:
    target = f"/v2/{_NAME}/blobs/{(server.root / 'digest').read_text()}"
    times = bench.pick(4, 12)

    def work() -> None:
        with Client(server.port) as client:
            for _ in range(times):
                client.download(target, _SIZE)

    wall, cpu = _timed(server, work)
    return {"rate": times * _SIZE / _MB / wall, "cpu": cpu * _GIB / (times * _SIZE)}


def _push(bench: Bench, server: Server) -> Mapping[str, float]:
    return _pushed(bench, server, Client.push)


def _push_in_chunks(bench: Bench, server: Server) -> Mapping[str, float]:
    return _pushed(bench, server, Client.push_in_chunks)


def _pushed(bench: Bench, server: Server, push: Callable[[Client, str, Blob], None]) -> Mapping[str, float]:
    times = bench.pick(2, 4)
    wall = cpu = 0.0
    with Client(server.port) as client:
        for _ in range(times):
            blob = _buffer().fresh()
            wall_one, cpu_one = _timed(server, lambda blob=blob: push(client, _NAME, blob))  # type: ignore[misc]
            wall, cpu = wall + wall_one, cpu + cpu_one
            # The next push finds the same empty disk and an idle one.
            shutil.rmtree(server.root / "docker/registry/v2/blobs", ignore_errors=True)  # zot has another layout
            os.sync()
    return {"rate": times * _SIZE / _MB / wall, "cpu": cpu * _GIB / (times * _SIZE)}


ROWS: Final = (
    Row(
        "blob-get-large",
        "GET of a 256 MiB blob",
        (
            Metric("rate", "MB/s", "higher", 1.0, goals={"distribution": 1.5, "zot": 1.0}),
            Metric("cpu", "server CPU s/GiB", "lower", 0.8, goals={"distribution": 0.6}),
        ),
        _pull,
        _prepare,
    ),
    Row(
        "blob-push-large",
        "push of a 256 MiB blob (POST, PATCH, PUT)",
        (
            Metric("rate", "MB/s", "higher", 2.0, goals={"distribution": 1.25, "zot": 1.0}),
            Metric("cpu", "server CPU s/GiB", "lower", 0.5, goals={"distribution": 0.85}),
        ),
        _push,
    ),
    Row(
        "blob-push-chunked",
        "the same in HTTP chunks of 32 KiB, as Docker, skopeo and podman send it",
        (
            Metric("rate", "MB/s", "higher", goals={"distribution": 1.2, "zot": 1.0}),
            Metric("cpu", "server CPU s/GiB", "lower", goals={"distribution": 0.85}),
        ),
        _push_in_chunks,
    ),
)
