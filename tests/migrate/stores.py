"""A small volume of docker-registry 2.8, and what a year of service leaves in one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.wire import OCI_MANIFEST, Wire, image

from moorage.registry import layout
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.storage.driver import Key

__all__ = ["BEGUN", "add_schema_1", "fill", "put"]

BEGUN = b"first" * 250_031
"""The bytes of an upload in progress; over a MiB, so that Moorage keeps a hash state as 2.8 does."""


def fill(host: str) -> str:
    """Push two images, a signature of one, and begin an upload; its Location."""
    wire = Wire(host)
    subject = wire.push_image("team/app", "v1", [b"a layer", b"another"])
    wire.push_image("library/base", "latest", [b"a layer"])
    described = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(subject)), "size": len(subject)}
    signature = image(b"{}", [], subject=described, artifactType="application/signature")
    assert wire.put_manifest("team/app", Digest.of(signature), signature).status == 201
    begun = wire.patch(wire.start_upload("team/begun").headers["location"], BEGUN)
    assert begun.status == 202, begun
    return begun.headers["location"]


def put(root: Path, key: Key, data: bytes) -> Path:
    """Write an object behind the registry's back."""
    path = root / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def add_schema_1(root: Path, name: RepoName) -> Digest:
    """Store an image of Docker before 2015, as 2.8 keeps it."""
    data = json.dumps({"schemaVersion": 1, "name": name, "tag": "old", "fsLayers": [], "history": []}).encode()
    digest = Digest.of(data)
    put(root, layout.blob_data(digest), data)
    put(root, layout.revision_link(name, digest), str(digest).encode())
    return digest
