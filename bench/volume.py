"""A store in the layout of CNCF Distribution, written file by file: what years of pushes leave, in minutes.

Each repository has images with a config of their own and layers out of a pool that all repositories share, as
base images do; each of its other images is tagged.  A part of the blobs is linked by no repository: pushes that
were never finished.  All of it is two days old.

    python -m bench.volume ROOT --repositories 20000    200,000 manifests, 1,000,000 links
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Volume", "blob_sizes"]

_MEDIA_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_AGE_S: Final = 2 * 86400


@dataclass(frozen=True, slots=True)
class Volume:
    """The size of a store: `images` and `links` (of configs and layers) are those of one repository.

    Every second image has no tag.  `dead` blobs of 1 KiB are linked nowhere.
    """

    repositories: int
    images: int = 10
    links: int = 50
    dead: int = 0

    def write(self, root: Path) -> None:
        """Write it below `root`, which is created."""
        Path(root).mkdir(parents=True)
        old = time.time() - _AGE_S
        writer = _Writer(str(root / "docker/registry/v2"), old)
        chosen = random.Random(1)
        layers_each = self.links - self.images
        pool = [writer.blob(b"layer %d" % number) for number in range(max(layers_each, self.repositories * 2))]
        for number in range(self.dead):
            writer.blob(b"dead %d " % number + bytes(1024))
        for number in range(self.repositories):
            writer.repository(f"team-{number % 100}/app-{number}", chosen.sample(pool, layers_each), self.images)

    def some_tags(self, root: Path, count: int) -> list[Path]:
        """Return one tag of each of so many repositories, evenly spread."""
        home = root / "docker/registry/v2/repositories"
        numbers = [index * self.repositories // count for index in range(count)]
        return [home / f"team-{number % 100}/app-{number}/_manifests/tags/v0" for number in numbers]


class _Writer:
    """Writes files with the time `old`, in seconds since 1970."""

    def __init__(self, root: str, old: float) -> None:
        self._root = root
        self._old = (old, old)

    def repository(self, name: str, layers: list[tuple[str, int]], images: int) -> None:
        home = f"{self._root}/repositories/{name}"
        for digest, _ in layers:
            self._link(f"{home}/_layers/sha256/{digest}", digest)
        share = max(1, len(layers) // images)
        for number in range(images):
            config = self.blob(f"config {number} of {name}".encode())
            self._link(f"{home}/_layers/sha256/{config[0]}", config[0])
            named = layers[number * share : (number + 1) * share] or layers[:1]
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MEDIA_TYPE,
                "config": _descriptor(_CONFIG, config),
                "layers": [_descriptor(_LAYER, layer) for layer in named],
            }
            digest, _ = self.blob(json.dumps(manifest).encode())
            self._link(f"{home}/_manifests/revisions/sha256/{digest}", digest)
            if number % 2 == 0:
                tag = f"{home}/_manifests/tags/v{number}"
                self._link(f"{tag}/index/sha256/{digest}", digest)
                self._link(f"{tag}/current", digest)

    def blob(self, data: bytes) -> tuple[str, int]:
        """Write a blob; return the hex of its digest, and its size."""
        digest = hashlib.sha256(data).hexdigest()
        self._write(f"{self._root}/blobs/sha256/{digest[:2]}/{digest}", "data", data)
        return digest, len(data)

    def _link(self, home: str, digest: str) -> None:
        self._write(home, "link", f"sha256:{digest}".encode())

    def _write(self, home: str, name: str, data: bytes) -> None:
        os.makedirs(home, exist_ok=True)  # noqa: PTH103  a Path for each of a million files takes a minute
        path = f"{home}/{name}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(file, data)
        os.close(file)
        os.utime(path, self._old)


def _descriptor(media_type: str, blob: tuple[str, int]) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": f"sha256:{blob[0]}", "size": blob[1]}


def blob_sizes(root: Path) -> dict[str, int]:
    """Return the blobs of a store, by the hex of their digests, and their sizes."""
    found = {}
    for home, _, names in os.walk(root / "docker/registry/v2/blobs"):
        if "data" in names:
            found[home.rpartition("/")[2]] = os.stat(f"{home}/data").st_size  # noqa: PTH116  as above
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--repositories", type=int, default=2_000)
    parser.add_argument("--dead", type=int, default=0)
    arguments = parser.parse_args()
    Volume(arguments.repositories, dead=arguments.dead).write(arguments.root)
