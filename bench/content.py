"""Test content: blobs of fresh random bytes, images of realistic size."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.client import MANIFEST_TYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Blob", "Image", "Stamped", "blob", "digest_of", "image", "image_of"]

_LAYER_TYPE: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes and their digest."""

    data: bytes | memoryview
    digest: str


@dataclass(frozen=True, slots=True)
class Image:
    """All the blobs of an image, its configuration last, and the manifest that names them."""

    blobs: tuple[Blob, ...]
    manifest: bytes


class Stamped:
    """One big buffer that becomes a new blob each time, without new memory."""

    def __init__(self, size: int) -> None:
        block = os.urandom(min(size, 4 << 20))
        self._data = bytearray((block * (size // len(block) + 1))[:size])

    def fresh(self) -> Blob:
        """Return a new blob; the previous one is no longer valid."""
        self._data[:16] = os.urandom(16)
        return _of(memoryview(self._data))


def blob(size: int) -> Blob:
    """Return a new blob of random bytes."""
    return _of(os.urandom(size))


def image(layers: int, layer_size: int) -> Image:
    """Return a new image of `layers` layers of the same size."""
    return image_of([layer_size] * layers)


def image_of(sizes: Sequence[int]) -> Image:
    """Return a new image with layers of these sizes, and a configuration as long as Docker's."""
    history = [{"created_by": f"RUN {'x' * 120}", "created": "2024-01-01T00:00:00Z"} for _ in sizes]
    config = json.dumps({"architecture": "amd64", "os": "linux", "seed": os.urandom(8).hex(), "history": history})
    blobs = (*(blob(size) for size in sizes), _of(config.encode()))
    *layer_entries, config_entry = [
        {"mediaType": _LAYER_TYPE, "size": len(entry.data), "digest": entry.digest} for entry in blobs
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {**config_entry, "mediaType": _CONFIG_TYPE},
        "layers": layer_entries,
    }
    return Image(blobs, json.dumps(manifest, indent=3).encode())


def digest_of(data: bytes | memoryview) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _of(data: bytes | memoryview) -> Blob:
    return Blob(data, digest_of(data))
