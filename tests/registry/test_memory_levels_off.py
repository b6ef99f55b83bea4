"""A process that pushes and deletes for ever does not grow for ever: every cache is full some day, and stays so.

The limits that production has are reached after tens of thousands of images; here they are small, so that the test
sees the level and not the way there.  What production levels off at is on the page docs/sizing.md.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import TYPE_CHECKING, Final

import pytest
from tests.http.client import Client

from moorage.caches import LRUCache
from moorage.config.model import Settings
from moorage.config.sections.storage import Delete, Storage
from moorage.http import manifests
from moorage.http.app import create_app
from moorage.storage.filesystem import durable
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.keys import check_key
from moorage.testing import builders
from moorage.types import Digest
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS: Final = Settings(storage=Storage(delete=Delete(enabled=True)))
ROUNDS: Final = 100
GROWTH_LIMIT_BYTES: Final = 8 << 10
"""80 bytes a round, in which there are 5 blobs and 2 manifests: one forgotten reference to each would be more."""
_TABLE_BYTES: Final = 64 << 10


async def round_trip(client: Client, number: int) -> None:
    """Push an image and an artifact that refers to it, look at them, delete everything."""
    image = builders.image(seed=number)
    artifact = builders.artifact("application/vnd.test.signature", builders.blob(seed=number), subject=image)
    name = f"team/app{number % 10}"
    await client.push(image, f"v{number % 50}", name=name)
    await client.push(artifact, name=name)
    assert (await client.manifest(f"v{number % 50}", name)).status_code == 200
    assert len((await client.get(f"/v2/{name}/referrers/{image.digest}")).json()["manifests"]) == 1
    for manifest in (artifact, image):
        assert (await client.manifest(manifest, name, "DELETE")).status_code == 202
    for part in image.closure:
        if not part.is_manifest:
            assert (await client.send("DELETE", f"/v2/{name}/blobs/{part.digest}")).status_code == 202


def fill_memories_of_spellings() -> None:
    """Those whose limits are not made smaller are full from the start.

    Three times over, since their dictionaries take their last size only after many entries have come and gone.
    """
    for number in range(3 * check_key.cache_parameters()["maxsize"]):
        check_key(f"docker/registry/v2/repositories/{'x' * 120}/{number}")
    for number in range(3 * Digest.parse.cache_parameters()["maxsize"]):
        Digest.parse(f"sha256:{number:064}")
    for number in range(3 * manifests._headers.cache_parameters()["maxsize"]):
        manifests._headers(Digest("sha256", f"{number:064}"), "application/vnd.oci.image.manifest.v1+json", number)


def small_objects_bytes() -> int:
    """What is held, without the tables of dictionaries: one that is resized (of interned names) is no growth."""
    gc.collect()
    return sum(trace.size for trace in tracemalloc.take_snapshot().traces if trace.size < _TABLE_BYTES)


@pytest.mark.slow
async def test_pushes_and_deletes_do_not_grow_a_process_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker would be killed for its memory after some days, in the middle of pushes."""
    monkeypatch.setattr(durable, "_KNOWN_LIMIT", 256)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk is not what is measured
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    registry = make_registry(FilesystemDriver(tmp_path), SETTINGS, b"secret")
    registry.manifests.contents.cache = LRUCache(64 << 10)
    registry.manifests._writes._versions = LRUCache(64)
    registry.manifests.contents._proven = LRUCache(64)
    registry.referrers.cache = LRUCache(32 << 10)
    client = Client(create_app(registry, http_options(SETTINGS)))
    held = []
    tracemalloc.start()
    try:
        fill_memories_of_spellings()
        for number in range(3 * ROUNDS):
            await round_trip(client, number)
            if number % ROUNDS == ROUNDS - 1:
                held.append(small_objects_bytes())
    finally:
        tracemalloc.stop()
        await registry.close()
    assert held[2] - held[1] < GROWTH_LIMIT_BYTES, held
