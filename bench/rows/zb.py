"""The scenarios of zot's benchmark zb: images of one layer, pushed and pulled by several clients.

A push is POST and PUT, or POST, PATCH and PUT, of one layer, then the config, then the manifest, each to a fresh
repository; a pull is HEAD and GET of the manifest, HEAD and GET of config and layer.  Unlike zb, each layer has
fresh bytes (zb pushes one file over and over, so that after the first push it measures deduplication), and set-up
and clean-up are not timed.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from bench import content, load
from bench.client import Client
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.content import Blob, Image
    from bench.servers import Server

__all__ = ["ROWS"]

_CLIENTS: Final = 10
_MB: Final = 1_000_000
_MIXED: Final = (1, 1, 10, 10, 10, 10, 10, 10, 10, 100)
"""Sizes in MB: 20 % 1 MB, 70 % 10 MB, 10 % 100 MB."""
_PULL_NAME: Final = "zb/pull"


def _push_whole(client: Client, name: str, blob: Blob) -> None:
    place = client.begin(name)
    joined = f"{place}{'&' if '?' in place else '?'}digest={blob.digest}"
    client.expect(201, "PUT", joined, blob.data, "application/octet-stream")


def _push_image(client: Client, name: str, image: Image, push: Callable[[Client, str, Blob], None]) -> None:
    for blob in image.blobs:
        push(client, name, blob)
    client.push_manifest(name, "1", image.manifest)


def _pull_image(client: Client, name: str, tag: str, blobs: Sequence[tuple[str, int]]) -> None:
    client.expect(200, "HEAD", f"/v2/{name}/manifests/{tag}")
    client.expect(200, "GET", f"/v2/{name}/manifests/{tag}")
    for digest, size in blobs:
        client.expect(200, "HEAD", f"/v2/{name}/blobs/{digest}")
        client.download(f"/v2/{name}/blobs/{digest}", size)


Operation = Any
"""A function of a client and a number that does one push or pull."""


def _run(bench: Bench, server: Server, sizes: Sequence[int], operation: Operation) -> dict[str, float]:
    """Do one operation for each size, dealt out to the clients; return rate and percentiles of latency."""
    clients = min(_CLIENTS, len(sizes))
    begin = time.monotonic() + 1.0 + sum(sizes) / 300
    run = os.urandom(4).hex()

    def work(index: int) -> Callable[[], tuple[float, list[float]]]:
        def go() -> tuple[float, list[float]]:
            times = []
            with Client(server.port) as client:
                todo = [
                    operation(client, f"{run}-{index}-{at}", size) for at, size in enumerate(sizes[index::clients])
                ]
                time.sleep(max(0.0, begin - time.monotonic()))
                for one in todo:
                    began = time.perf_counter()
                    one()
                    times.append(time.perf_counter() - began)
            return time.monotonic(), times

        return go

    cpu = server.cpu_s()
    found = load.in_processes(bench.load_cpus, [work(index) for index in range(clients)])
    used = server.cpu_s() - cpu
    latencies = sorted(value for _, times in found for value in times)
    os.sync()
    return {
        "rate": len(latencies) / (max(end for end, _ in found) - begin),
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)] * 1000,
        "cpu_ms": used / len(latencies) * 1000,
    }


def _pushing(push: Callable[[Client, str, Blob], None]) -> Operation:
    def operation(client: Client, unique: str, size: int) -> Callable[[], None]:
        image = content.image(1, size * _MB)
        return lambda: _push_image(client, f"zb/{unique}", image, push)

    return operation


def _pulling(client: Client, _unique: str, size: int) -> Callable[[], None]:
    blobs = _blobs_of(client, size)
    return lambda: _pull_image(client, _PULL_NAME, f"mb{size}", blobs)


def _mixing(client: Client, unique: str, size: int) -> Callable[[], None]:
    """75 % pulls and 25 % pushes."""
    pushes = int(unique.rpartition("-")[2]) % 4 == 3
    return _pushing(_push_whole)(client, unique, size) if pushes else _pulling(client, unique, size)


def _listing(client: Client, _unique: str, _size: int) -> Callable[[], None]:
    return lambda: _ignored(client.expect(200, "GET", "/v2/_catalog?n=100"))


def _ignored(_answer: object) -> None: ...


def _blobs_of(client: Client, size: int) -> list[tuple[str, int]]:
    import json  # noqa: PLC0415  beside the timed part

    manifest = json.loads(client.expect(200, "GET", f"/v2/{_PULL_NAME}/manifests/mb{size}").body)
    return [(entry["digest"], entry["size"]) for entry in (manifest["config"], *manifest["layers"])]


def _prepare(_bench: Bench, server: Server) -> None:
    """One image of each size to pull, and repositories to list."""
    with Client(server.port) as client:
        for size in (1, 10, 100):
            image = content.image(1, size * _MB)
            for blob in image.blobs:
                client.push(_PULL_NAME, blob)
            client.push_manifest(_PULL_NAME, f"mb{size}", image.manifest)
        small = content.image(1, 1000)
        for number in range(100):
            _push_image(client, f"zb/list-{number:03d}", small, _push_whole)


def _row(name: str, title: str, sizes: Callable[[Bench], Sequence[int]], operation: Operation) -> Row:
    def measure(bench: Bench, server: Server) -> Mapping[str, float]:
        return _run(bench, server, sizes(bench), operation)

    zot, two = {"zot": 1.0}, {"zot": 1.0, "distribution": 1.0}
    metrics = (
        Metric("rate", "operations/s", "higher", goals=two),
        Metric("p50_ms", "ms (median)", "lower", goals=zot),
        Metric("p99_ms", "ms (99th percentile)", "lower", goals=zot),
        Metric("cpu_ms", "server CPU ms/operation", "lower"),
    )
    return Row(name, title, metrics, measure, _prepare)


def _of(size: int, quick: int, usual: int) -> Callable[[Bench], Sequence[int]]:
    return lambda bench: [size] * bench.pick(quick, usual)


def _mixed(bench: Bench) -> Sequence[int]:
    return list(_MIXED) * bench.pick(1, 3)


def _rows() -> Iterator[Row]:
    for size, usual in ((1, 200), (10, 60), (100, 12)):
        counts = _of(size, usual // 4, usual)
        yield _row(f"zb-push-{size}", f"zb: push {size} MB in one PUT", counts, _pushing(_push_whole))
        yield _row(
            f"zb-push-chunked-{size}", f"zb: push {size} MB by PATCH", counts, _pushing(Client.push_in_chunks)
        )
        yield _row(f"zb-pull-{size}", f"zb: pull {size} MB", counts, _pulling)
        yield _row(f"zb-mixed-{size}", f"zb: 75 % pull and 25 % push of {size} MB", counts, _mixing)
    yield _row("zb-push-mixed", "zb: push of mixed sizes", _mixed, _pushing(_push_whole))
    yield _row("zb-pull-mixed", "zb: pull of mixed sizes", _mixed, _pulling)
    yield _row("zb-catalog", "zb: list the catalogue", _of(0, 500, 2000), _listing)


ROWS: Final = tuple(_rows())
