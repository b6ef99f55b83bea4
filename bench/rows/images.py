"""Complete images: 16 clients push images of ten small layers, each to its own repository."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from bench import content, load
from bench.client import Client
from bench.rows.base import Bench, Metric, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.servers import Server

__all__ = ["ROWS"]

_CLIENTS: Final = 16
_LAYERS: Final = 10
_LAYER_BYTES: Final = 8 << 10


def _push(bench: Bench, server: Server) -> Mapping[str, float]:
    images = _images(bench)
    works = [_client(server.port, index, images // _CLIENTS) for index in range(_CLIENTS)]
    done = load.together(bench.load_cpus, works, server.cpu_s)
    os.sync()
    return {"rate": images / done.wall_s, "cpu_ms": done.server_s / images * 1000}


def _images(bench: Bench) -> int:
    """Return how many images are pushed, as many by each client."""
    return bench.pick(48, 208)


def _client(port: int, index: int, count: int) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        images = [content.image(_LAYERS, _LAYER_BYTES) for _ in range(count)]
        name, run = f"team/project-{index}", os.urandom(4).hex()
        client = Client(port)

        def push() -> None:
            with client:
                for number, image in enumerate(images):
                    client.push_image(name, f"{run}-{number}", image)

        return push

    return prepare


ROWS: Final = (
    Row(
        "images-push",
        lambda bench: f"push of {_images(bench)} images with 10 layers of 8 KiB, 16 clients",
        (
            Metric("rate", "images/s", "higher", 3.0, goals={"distribution": 3.0, "zot": 1.0}),
            Metric("cpu_ms", "server CPU ms/image", "lower", goals={"distribution": 0.5}),
        ),
        _push,
    ),
)
