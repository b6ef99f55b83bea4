"""Storage in S3: a large push, manifests, and how many requests to the store an image costs.

Both registries use one store, each round in a bucket of its own.  `store` is the share of a core that the process
behind the endpoint uses: the rate through it is what the store would allow with that core for itself.  Near 1, or
where load generator and neighbours leave no more, the store is measured, and processor time per GiB or request is
the better measure.
"""

from __future__ import annotations

import time
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from bench import content, load, servers
from bench.client import ACCEPT, Client
from bench.counting import Counting
from bench.rows.base import Bench, Metric, Row, load_request
from bench.rows.small import CONNECTIONS, MANIFEST_GET, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bench.content import Image
    from bench.store import Store

__all__ = ["ROWS"]

_SIZE: Final = 256 << 20
_NAME: Final = "library/large"
_MB: Final = 1e6
_GIB: Final = 1 << 30
_LAYERS: Final = (300_000, 5_000_000, 25_000_000)
"""Of the image whose requests are counted; docs/storage/s3.md has the same."""
_STORE: Final = Metric("store", "of a core, the store", "lower")
_WITHOUT: Final = {servers.ZOT: "the benchmark has no S3 configuration for it"}


@cache
def _buffer() -> content.Stamped:
    return content.Stamped(_SIZE)


def _store(bench: Bench) -> Store:
    assert bench.store is not None, "the row has s3=True"
    return bench.store


class _Watch:
    """Wall time and processor seconds of the server and the store while the context lasts."""

    def __init__(self, server: servers.Server, store: Store) -> None:
        self._server, self._store = server, store
        self.wall = self.server = 0.0
        self.store: float | None = 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter(), self._server.cpu_s(), self._store.cpu_s()

    def __exit__(self, *_: object) -> None:
        began, server, store = self._begin
        self.wall += time.perf_counter() - began
        self.server += self._server.cpu_s() - server
        now = self._store.cpu_s()
        self.store = None if store is None or now is None or self.store is None else self.store + now - store

    def busy(self) -> dict[str, float]:
        """The store's share of a core, if it runs on this machine."""
        return {} if self.store is None else {"store": self.store / self.wall}


def _push_large(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    store, times = _store(bench), bench.pick(1, 2)
    with store.bucket() as bucket:
        sections = store.sections(bucket, redirect=True)
        with (
            servers.start(side, root, [bench.server_cpu], sections=sections) as server,
            Client(server.port) as client,
        ):
            # Connections to the store, and what is asked of it once.
            client.push(_NAME, content.blob(1024))
            watch = _Watch(server, store)
            for _ in range(times):
                blob = _buffer().fresh()
                with watch:
                    client.push(_NAME, blob)
                store.empty(bucket)
    size = times * _SIZE
    return {"rate": size / _MB / watch.wall, "cpu": watch.server * _GIB / size, **watch.busy()}


def _one_tag(bench: Bench, server: servers.Server) -> list[bytes]:
    fill(bench, server)
    return [MANIFEST_GET]


def _many_tags(bench: Bench, server: servers.Server) -> list[bytes]:
    """A tag for each connection, so that no two requests ask for the same."""
    del bench
    tags, image = [f"tag-{number}" for number in range(CONNECTIONS)], content.image(layers=10, layer_size=1024)
    with Client(server.port) as client:
        client.push_image(_NAME, tags[0], image)
        for tag in tags[1:]:
            client.push_manifest(_NAME, tag, image.manifest)
    return [load_request("GET", f"/v2/{_NAME}/manifests/{tag}", accept=ACCEPT) for tag in tags]


def _manifest_get(
    prepare: Callable[[Bench, servers.Server], list[bytes]], bench: Bench, side: str, root: Path
) -> Mapping[str, float]:
    store = _store(bench)
    with store.bucket() as bucket:
        sections = store.sections(bucket, redirect=False)
        with servers.start(side, root, [bench.server_cpu], sections=sections) as server:
            requests = prepare(bench, server)
            watch = _Watch(server, store)
            with watch:
                result = load.run(
                    server.port, *requests, connections=CONNECTIONS, seconds=bench.seconds, cpus=bench.load_cpus
                )
    return {
        "requests": result.per_s,
        "cpu_us": watch.server / result.answers * 1e6,
        **result.latency,
        "generator_busy": result.busy,
        **watch.busy(),
    }


def _requests(bench: Bench, side: str, root: Path) -> Mapping[str, float]:
    store, times = _store(bench), bench.pick(1, 3)
    images = [content.image_of(_LAYERS) for _ in range(times + 1)]
    cpus = [bench.server_cpu]
    with store.bucket() as bucket, Counting(store.endpoint) as counting:
        sections = store.sections(bucket, redirect=True, endpoint=counting.endpoint)
        with servers.start(side, root, cpus, sections=sections) as server, Client(server.port) as client:
            # What a process asks once is not the image's.
            _push(client, images[0])
            pushed = counting.during(lambda: _push(client, *images[1:]))
        # A new process, so that nothing is known.
        with servers.start(side, root, cpus, sections=sections) as server, Client(server.port) as client:
            before = counting.settled()
            _pull(client, images[1])
            between = counting.so_far
            _pull(client, images[1])
            first, again = between - before, counting.settled() - between
            manifest = counting.during(lambda: _manifest(client, images[1], _tag(images[1])))
    return {"push": pushed / times, "pull": first, "again": again, "manifest": manifest}


def _tag(image: Image) -> str:
    return image.blobs[0].digest[7:19]


def _push(client: Client, *images: Image) -> None:
    """As Docker does, in HTTP chunks."""
    for image in images:
        for blob in image.blobs:
            client.expect(404, "HEAD", f"/v2/{_NAME}/blobs/{blob.digest}")
            client.push_in_chunks(_NAME, blob)
        client.push_manifest(_NAME, _tag(image), image.manifest)


def _pull(client: Client, image: Image) -> None:
    """As Docker and containerd do.  Every blob is a redirect to the store, which is not followed: that request
    would be the client's own.
    """
    client.expect(200, "HEAD", f"/v2/{_NAME}/manifests/{_tag(image)}")
    _manifest(client, image, content.digest_of(image.manifest))
    for blob in image.blobs:
        client.expect(307, "GET", f"/v2/{_NAME}/blobs/{blob.digest}")


def _manifest(client: Client, image: Image, reference: str) -> None:
    if client.expect(200, "GET", f"/v2/{_NAME}/manifests/{reference}").body != image.manifest:
        raise load.LoadFailed("a manifest has other bytes than were pushed")


ROWS: Final = (
    Row(
        "s3-push-large",
        "push of a 256 MiB blob to S3 (POST, PATCH, PUT)",
        (Metric("rate", "MB/s", "higher", 1.5), Metric("cpu", "server CPU s/GiB", "lower"), _STORE),
        alone=_push_large,
        without=_WITHOUT,
        s3=True,
    ),
    Row(
        "s3-manifest-get",
        "GET manifest by tag from S3, cache warm",
        (
            Metric("requests", "requests/s", "higher", 8),
            Metric("cpu_us", "server CPU us/request", "lower"),
            _STORE,
        ),
        alone=partial(_manifest_get, _one_tag),
        without=_WITHOUT,
        s3=True,
    ),
    Row(
        "s3-manifest-get-spread",
        "the same, each of 32 clients another tag",
        (
            Metric("requests", "requests/s", "higher"),
            Metric("cpu_us", "server CPU us/request", "lower"),
            _STORE,
        ),
        alone=partial(_manifest_get, _many_tags),
        without=_WITHOUT,
        s3=True,
    ),
    Row(
        "s3-requests",
        "image of 3 layers in S3",
        (
            Metric("push", "requests to the store per push", "lower", 0.5),
            Metric("pull", "requests per pull, first of a process", "lower", 0.5),
            Metric("again", "requests per pull, again at once", "lower", 0.5),
            Metric("manifest", "requests per manifest GET by tag, again", "lower"),
        ),
        alone=_requests,
        rounds=2,
        without=_WITHOUT,
        s3=True,
    ),
)
