"""Kinds of images: external layers, sha512, caches of BuildKit, schema 1, indexes within indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.replication.places import RecordingTarget, StubbornSource, has_whole, new_registry, no_sleep

from moorage.registry.interface import Manifest
from moorage.replication.errors import UnsupportedImage
from moorage.replication.images import ImageCopier, copy_image
from moorage.replication.platforms import ImagePlatform
from moorage.replication.requests import CopyRequest
from moorage.testing import builders
from moorage.testing.registry_fixtures import NAME, push, upload
from moorage.types import Digest, parse_tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from moorage.registry.stored import StoredRegistry

V1 = parse_tag("v1")
REQUEST = CopyRequest(NAME, V1, NAME, V1)
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest_asyncio.fixture
async def here() -> AsyncIterator[StoredRegistry]:
    registry = new_registry()
    yield registry
    await registry.close()


@pytest_asyncio.fixture
async def there() -> AsyncIterator[StoredRegistry]:
    registry = new_registry()
    yield registry
    await registry.close()


@pytest.mark.parametrize(
    "built",
    [
        builders.image(algorithm="sha512", seed=1),
        builders.image(docker=True, seed=2),
        builders.index(builders.blob(size=100, seed=3), builders.blob(size=100, seed=4)),
        builders.index(builders.index(builders.image(seed=5)), builders.image(seed=6)),
        builders.index(),
        builders.artifact("application/vnd.example", builders.blob(b"")),
    ],
    ids=["sha512", "docker", "cache of BuildKit", "nested", "empty", "artifact with an empty blob"],
)
async def test_every_kind_arrives(here: StoredRegistry, there: StoredRegistry, built: builders.Built) -> None:
    await push(here, built, "v1")
    result = await copy_image(StubbornSource(here), RecordingTarget(there), REQUEST)
    assert result.digest == built.digest
    assert await has_whole(there, built)
    assert (await there.manifests.get(NAME, V1)).data == built.data
    again = await copy_image(StubbornSource(here), RecordingTarget(there), REQUEST)
    assert (again.tagged, again.counts.changed) == (False, False)


@pytest.mark.parametrize("stored", [True, False])
async def test_external_layers_come_along_if_the_source_has_them(
    here: StoredRegistry, there: StoredRegistry, stored: bool
) -> None:
    """Clients fetch the others from their URLs (non-distributable layers of Windows)."""
    layer, external = builders.blob(size=10, seed=1), builders.blob(size=20, seed=2, media_type=FOREIGN)
    entries = [layer.entry, {**external.entry, "urls": ["https://example.test/layer"]}]
    built = builders.image(layer, docker=True, extra={"layers": entries})
    if stored:
        await upload(here, external.data)
    await push(here, built, "v1")
    target = RecordingTarget(there)
    await copy_image(StubbornSource(here), target, REQUEST)
    assert await has_whole(there, built)
    assert await target.has_blob(NAME, external.digest) == stored


async def test_platforms_are_selected_in_nested_indexes(here: StoredRegistry, there: StoredRegistry) -> None:
    """An entry without a platform is for all of them, and is looked into."""
    inner = builders.index(builders.image(seed=1), builders.image(seed=2, platform="linux/arm64"))
    await push(here, builders.index(inner), "v1")
    request = CopyRequest(NAME, V1, NAME, V1, platforms=(ImagePlatform.parse("linux/arm64"),))
    target = RecordingTarget(there)
    with pytest.raises(Exception, match="refuses an index of which not all platforms are there"):
        await copy_image(StubbornSource(here), target, request)
    assert str(inner.manifests[1].digest) in target.written
    assert str(inner.manifests[0].digest) not in target.written


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"schemaVersion": 1, "fsLayers": []}', "schema 1 manifests are not supported"),
        (
            b'{"schemaVersion": 2, "config": {"digest": "md5:12", "size": 1}, "layers": []}',
            r"names digests that are not supported: 'md5:12'",
        ),
        (b"no JSON", "it is not a JSON object"),
    ],
)
async def test_what_cannot_be_copied_unchanged_is_named(
    here: StoredRegistry, there: StoredRegistry, monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    source = StubbornSource(here)

    async def served(*_: object) -> Manifest:
        return Manifest(Digest.of(data), builders.OCI_MANIFEST, data)

    async def resolve(*_: object) -> Digest:
        return Digest.of(data)

    monkeypatch.setattr(source, "get_manifest", served)
    monkeypatch.setattr(source, "resolve", resolve)
    with pytest.raises(UnsupportedImage, match=message):
        await copy_image(source, RecordingTarget(there), REQUEST)


async def test_images_that_share_a_layer_send_it_once(here: StoredRegistry, there: StoredRegistry) -> None:
    """Also while the first one is being sent."""
    import asyncio

    layer = builders.blob(size=5000, seed=1)
    for seed in range(3):
        await push(here, builders.image(layer, builders.blob(size=10, seed=seed)), f"v{seed}")
    source, target = StubbornSource(here), RecordingTarget(there)
    copier = ImageCopier(source, target, images_at_once=3, sleep=no_sleep)
    tags = [parse_tag(f"v{seed}") for seed in range(3)]
    await asyncio.gather(*(copier.copy(CopyRequest(NAME, tag, NAME, tag)) for tag in tags))
    await copier.close()
    assert target.written.count(str(layer.digest)) == 1
