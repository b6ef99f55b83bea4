"""Pull-through caches: images that are cold, warm, and pulled by many clients at once.

Each side is a cache of the same upstream registry (`bench/upstream.py`), whose rate is limited where rates are
compared: client, cache and upstream share the cores.  An image is pulled as Docker does: the manifest by its tag,
then its blobs.  `direct` is the same pull from the upstream registry itself, in the same round.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from bench import content, servers, upstream
from bench.client import Client
from bench.content import digest_of
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bench.content import Image
    from bench.servers import Server
    from bench.upstream import Upstream

__all__ = ["ROWS"]

NAME: Final = "library/app"
_MB: Final = 10**6
_GIB: Final = 1 << 30
_CLIENTS: Final = 32


@contextmanager
def _cache(bench: Bench, side: str, root: Path, rate: int) -> Iterator[tuple[Upstream, Server]]:
    with upstream.started(root.with_name(f"{root.name}-upstream"), bench.load_cpus, rate) as source:
        proxy: dict[str, Any] = {"remoteurl": source.url}
        with servers.start(side, root, [bench.server_cpu], sections={"proxy": proxy}) as server:
            yield source, server


def _pull(port: int, tag: str, image: Image) -> tuple[float, float]:
    """Pull an image; return the seconds of the whole pull, and those to the first byte of its first layer."""
    began = time.perf_counter()
    first = 0.0
    with Client(port) as client:
        found = client.expect(200, "GET", f"/v2/{NAME}/manifests/{tag}").body
        if digest_of(found) != digest_of(image.manifest):
            raise servers.ServerFailed("another manifest than that of the upstream registry")
        for blob in image.blobs:
            asked = time.perf_counter()
            target = f"/v2/{NAME}/blobs/{blob.digest}"
            client.send("GET", target)
            for _ in client.pieces(target, len(blob.data), 64 << 10):
                first = first or time.perf_counter() - asked
    return time.perf_counter() - began, first


def _cold(bench: Bench, side: str, root: Path, *, rate: int, size: int) -> Mapping[str, float]:
    """Pull an image with one layer of `size` bytes, that the cache does not have."""
    with _cache(bench, side, root, rate) as (source, server):
        image = content.image(1, size)
        source.add("cold", image)
        direct_s, direct_first_s = _pull(source.port, "cold", image)
        seconds, first_s = _pull(server.port, "cold", image)
    return {"of_direct": direct_s / seconds, "first_ms": (first_s - direct_first_s) * 1e3}


def _cost(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """Compare the processor time of a cold pull with that of a push and a GET of the same blob without a cache."""
    size = bench.pick(64, 256) << 20
    with _cache(bench, side, root, 0) as (source, server):
        image = content.image(1, size)
        source.add("cold", image)
        before = server.cpu_s()
        _pull(server.port, "cold", image)
        time.sleep(0.5)  # what is stored behind the answer belongs to it
        cold_s = server.cpu_s() - before
    with servers.start(side, root.with_name(f"{root.name}-plain"), [bench.server_cpu]) as server:
        blob = image.blobs[0]
        before = server.cpu_s()
        with Client(server.port) as client:
            client.push(NAME, blob)
            client.download(f"/v2/{NAME}/blobs/{blob.digest}", size)
        plain_s = server.cpu_s() - before
    return {"cpu": cold_s * _GIB / size, "of_plain": cold_s / plain_s}


def _storm(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """Pull one cold blob with many clients, and another one with one client."""
    size = bench.pick(32, 256) << 20
    with _cache(bench, side, root, 50 * _MB) as (source, server):
        one, many = content.image(1, size), content.image(1, size)
        source.add("one", one)
        source.add("many", many)
        alone_s, _ = _pull(server.port, "one", one)
        before = source.downloads()
        failures: list[BaseException] = []

        def pull() -> None:
            try:
                _pull(server.port, "many", many)
            except BaseException as error:
                failures.append(error)
                raise

        clients = [threading.Thread(target=pull) for _ in range(_CLIENTS)]
        began = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        if failures:
            raise failures[0]
        seconds = time.perf_counter() - began
        downloads = source.downloads() - before - 1  # that of the configuration
    return {"of_one": seconds / alone_s, "downloads": downloads}


def _warm(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """Pull a small image that is cached, again and again."""
    with _cache(bench, side, root, 0) as (source, server):
        image = content.image_of([3 << 20, 200_000, 1000])
        source.add("warm", image)
        _pull(server.port, "warm", image)
        time.sleep(1)
        times = sorted(_pull(server.port, "warm", image)[0] for _ in range(bench.pick(5, 30)))
    return {"ms": times[len(times) // 2] * 1e3}


def _warm_large(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    """GET a large blob that is cached, and from a registry that is no cache."""
    size = bench.pick(64, 256) << 20
    image = content.image(1, size)
    target = f"/v2/{NAME}/blobs/{image.blobs[0].digest}"

    def measure(port: int) -> float:
        with Client(port) as client:
            client.download(target, size)
            began = time.perf_counter()
            for _ in range(8):
                client.download(target, size)
            return time.perf_counter() - began

    with _cache(bench, side, root, 0) as (source, server):
        source.add("warm", image)
        _pull(server.port, "warm", image)
        time.sleep(1)
        cached_s = measure(server.port)
    with servers.start(side, root.with_name(f"{root.name}-plain"), [bench.server_cpu]) as server:
        with Client(server.port) as client:
            client.push(NAME, image.blobs[0])
        return {"of_plain": measure(server.port) / cached_s}


def _cold_at(mb_per_s: int) -> Row:
    def work(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
        return _cold(bench, side, root, rate=mb_per_s * _MB, size=bench.pick(2, 10) * mb_per_s * _MB // 5)

    return Row(
        f"mirror-cold-{mb_per_s}",
        f"pull of an uncached image through the cache, upstream at {mb_per_s} MB/s",
        (
            Metric("of_direct", "of the direct rate", "higher", 0.9, "value"),
            Metric("first_ms", "ms to the first byte of the layer, beyond the direct", "lower", 10, "value"),
        ),
        alone=work,
        without=_WITHOUT,
    )


_WITHOUT: Final = {"zot": "its cache, the extension sync, is not configured here"}

ROWS: Final = (
    _cold_at(10),
    _cold_at(50),
    Row(
        "mirror-storm",
        f"{_CLIENTS} clients pull one uncached image, upstream at 50 MB/s per connection",
        (
            Metric("of_one", "of the time of one client", "lower", 1.3, "value"),
            Metric("downloads", "downloads from the upstream registry", "lower", 1, "value"),
        ),
        alone=_storm,
        without=_WITHOUT,
    ),
    Row(
        "mirror-warm",
        "pull of a small cached image",
        (Metric("ms", "ms (median)", "lower", 100, "value"),),
        alone=_warm,
        without=_WITHOUT,
    ),
    Row(
        "mirror-warm-large",
        "GET of a large cached blob",
        (Metric("of_plain", "of the rate of a registry that is no cache", "higher", 0.95, "value"),),
        alone=_warm_large,
        without=_WITHOUT,
    ),
    Row(
        "mirror-cost",
        "processor time of an uncached pull, upstream unlimited",
        (
            Metric("cpu", "server CPU s/GiB", "lower"),
            Metric("of_plain", "of a push and a GET without a cache", "lower", 1.0, "value"),
        ),
        alone=_cost,
        without=_WITHOUT,
    ),
)
