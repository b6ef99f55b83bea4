"""A large store for garbage collection, written file by file: `python -m bench.collection_store ROOT`.

Each repository has 10 tagged manifests and 50 layer links (10 configs, 40 layers, a quarter of them shared with
other repositories), so that `--repositories 20000` makes 200,000 manifests and 1,000,000 layer links.  Layers have
a few bytes; their sizes do not matter to a collection.  Everything is two days old.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

__all__ = ["build"]

_MANIFESTS = 10
_LAYERS = 4
_SHARED = 2000
_ROOT = "docker/registry/v2"
_AGE_S = 2 * 86_400
_OCI = "application/vnd.oci.image"


class _Builder:
    def __init__(self, root: str, at: float) -> None:
        self._root = f"{root}/{_ROOT}"
        self._at = (at, at)
        self._made: set[str] = set()

    def write(self, path: str, data: bytes) -> None:
        path = f"{self._root}/{path}"
        directory = path.rpartition("/")[0]
        if directory not in self._made:
            Path(directory).mkdir(parents=True, exist_ok=True)
            self._made.add(directory)
            if len(self._made) > 100_000:
                self._made.clear()
        Path(path).write_bytes(data)
        os.utime(path, self._at)

    def blob(self, data: bytes) -> str:
        text = hashlib.sha256(data).hexdigest()
        self.write(f"blobs/sha256/{text[:2]}/{text}/data", data)
        return text

    def repository(self, name: str, number: int) -> None:
        for i in range(_MANIFESTS):
            config = self.blob(f'{{"config":"{name}/{i}"}}'.encode())
            layers = [self.blob(f"{name}/{i}/{j}".encode()) for j in range(_LAYERS - 1)]
            layers.append(self.blob(f"shared {(number * 7 + i) % _SHARED}".encode()))
            manifest = self.blob(_manifest(config, layers))
            for text in (config, *layers):
                self.write(f"repositories/{name}/_layers/sha256/{text}/link", f"sha256:{text}".encode())
            home = f"repositories/{name}/_manifests"
            link = f"sha256:{manifest}".encode()
            self.write(f"{home}/revisions/sha256/{manifest}/link", link)
            self.write(f"{home}/tags/v{i}/index/sha256/{manifest}/link", link)
            self.write(f"{home}/tags/v{i}/current/link", link)


def _manifest(config: str, layers: list[str]) -> bytes:
    def entry(kind: str, text: str) -> dict[str, object]:
        return {"mediaType": f"{_OCI}.{kind}", "digest": f"sha256:{text}", "size": 1234567}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}.manifest.v1+json",
            "config": entry("config.v1+json", config),
            "layers": [entry("layer.v1.tar+gzip", text) for text in layers],
            "annotations": {"org.opencontainers.image.created": "2026-11-29T12:00:00Z"},
        }
    ).encode()


def build(root: Path, repositories: int) -> None:
    """Write a store."""
    builder = _Builder(str(root), time.time() - _AGE_S)
    for number in range(repositories):
        builder.repository(f"team{number % 97}/service{number}", number)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--repositories", type=int, default=2_000)
    arguments = parser.parse_args()
    build(arguments.root, arguments.repositories)
