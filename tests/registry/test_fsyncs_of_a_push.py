"""How many fsyncs a push costs, by kind: each is a wait for the disk, and one that is missing is a lost 201."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.storage.test_durability import Disk

from moorage.registry import layout
from moorage.registry.manifests import StoredManifests
from moorage.registry.uploads import StoredUploads
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = RepoName("library/app")
TYPE = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    """The write paths on files, and the kinds of fsyncs since the last look."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root, self._disk = root, disk
        self.driver = FilesystemDriver(root)
        self.uploads = StoredUploads(self.driver, b"secret")
        self.manifests = StoredManifests(self.driver)

    async def push(self, data: bytes, *, patched: bool = True) -> Digest:
        digest = Digest.of(data)
        status = await self.uploads.start(NAME)
        if patched:
            async with self.uploads.extend(NAME, status.uuid, status.state) as part:
                await part.write(data)
                status = await part.commit()
        async with self.uploads.extend(NAME, status.uuid, status.state) as part:
            if not patched:
                await part.write(data)
            await part.finish(digest)
        for key in (layout.blob_data(digest), layout.layer_link(NAME, digest)):
            self._disk.keeps(self.root / key)
        return digest

    async def tag(self, tag: str, config: Digest, size: int, note: str = "") -> Digest:
        descriptor = {"mediaType": "application/x", "digest": str(config), "size": size}
        image = {
            "schemaVersion": 2,
            "mediaType": TYPE,
            "config": descriptor,
            "layers": [],
            "annotations": {"n": note},
        }
        data = json.dumps(image).encode()
        pushed = await self.manifests.put(NAME, Tag(tag), TYPE, data)
        keys = [layout.blob_data(pushed.digest), layout.revision_link(NAME, pushed.digest)]
        keys += [layout.tag_history_link(NAME, Tag(tag), pushed.digest), layout.tag_link(NAME, Tag(tag))]
        for key in keys:
            self._disk.keeps(self.root / key)
        return pushed.digest

    def kinds(self) -> Counter[str]:
        """What was synced: files, and directories by the entry that they got."""
        paths = [Path(path) for path in self._disk.syncs]
        found = Counter(_kind(path.relative_to(self.root)) for path in paths if path.is_relative_to(self.root))
        self._disk.syncs.clear()
        return found


def _kind(path: Path) -> str:
    text = str(path).removeprefix("docker/registry/v2/").replace(f"repositories/{NAME}/", "")
    if path.name == "data" or path.name.endswith(".tmp"):
        return "file"
    for number, part in enumerate(parts := text.split("/")):
        if len(part) == 64:
            parts[number] = "HEX"
        elif len(part) == 2:
            parts[number] = "HH"
    return "/".join(parts)


@pytest.fixture
async def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Registry]:
    disk = Disk(monkeypatch)
    registry = Registry(tmp_path, disk)
    yield registry
    registry.uploads.close()
    await registry.driver.close()


@pytest.mark.parametrize("patched", [True, False])
async def test_a_layer(registry: Registry, patched: bool) -> None:
    """Two for what the files hold, four for the names of files and of the directories made for them."""
    await registry.push(b"first", patched=patched)
    (registry.root / "docker/registry/v2/blobs/sha256").mkdir(exist_ok=True)
    second = b"second"
    await registry.push(second, patched=patched)
    registry.kinds()
    (data,) = _of_directory(Digest.of(second).hex[:2], 1)  # another blob of a known blobs/sha256/HH
    await registry.push(data, patched=patched)
    assert registry.kinds() == {
        "file": 2,
        "blobs/sha256/HH/HEX": 1,
        "blobs/sha256/HH": 1,
        "_layers/sha256": 1,
        "_layers/sha256/HEX": 1,
    }


async def test_a_layer_in_a_new_part_of_the_blobs(registry: Registry) -> None:
    """The 256 directories below `blobs/sha256`: each once in a process."""
    await registry.push(b"first")
    registry.kinds()
    await registry.push(b"second")
    assert registry.kinds()["blobs/sha256"] == 1
    assert registry.kinds() == {}


async def test_a_layer_that_is_there(registry: Registry) -> None:
    """Another process may have linked it a moment ago: nothing but the names of known directories is left out."""
    await registry.push(b"layer")
    registry.kinds()
    await registry.push(b"layer")
    assert registry.kinds() == {"file": 2, "blobs/sha256/HH/HEX": 1, "_layers/sha256/HEX": 1}


async def test_a_manifest_by_a_new_tag(registry: Registry) -> None:
    """Four files, their four directories, and the six above that got an entry for one of these."""
    config = await registry.push(b"config")
    await registry.tag("v1", config, 6)
    registry.kinds()
    await registry.tag("v2", config, 6, note="other")
    kinds = registry.kinds()
    kinds.pop("blobs/sha256", None)  # the first manifest in its part of the blobs
    assert kinds == {
        "file": 4,
        "blobs/sha256/HH/HEX": 1,
        "blobs/sha256/HH": 1,
        "_manifests/revisions/sha256": 1,
        "_manifests/revisions/sha256/HEX": 1,
        "_manifests/tags": 1,
        "_manifests/tags/HH": 1,
        "_manifests/tags/HH/index": 1,
        "_manifests/tags/HH/index/sha256": 1,
        "_manifests/tags/HH/index/sha256/HEX": 1,
        "_manifests/tags/HH/current": 1,
    }


async def test_a_manifest_by_a_tag_that_is_moved(registry: Registry) -> None:
    config = await registry.push(b"config")
    await registry.tag("v1", config, 6)
    registry.kinds()
    await registry.tag("v1", config, 6, note="other")
    kinds = registry.kinds()
    kinds.pop("blobs/sha256", None)
    assert kinds == {
        "file": 4,
        "blobs/sha256/HH/HEX": 1,
        "blobs/sha256/HH": 1,
        "_manifests/revisions/sha256": 1,
        "_manifests/revisions/sha256/HEX": 1,
        "_manifests/tags/HH/index/sha256": 1,
        "_manifests/tags/HH/index/sha256/HEX": 1,
        "_manifests/tags/HH/current": 1,
    }


async def test_a_manifest_that_is_there_under_another_tag(registry: Registry) -> None:
    """What this process made durable before is not written again."""
    config = await registry.push(b"config")
    await registry.tag("v1", config, 6)
    registry.kinds()
    await registry.tag("v2", config, 6)
    kinds = registry.kinds()
    assert kinds["file"] == 2
    assert not [kind for kind in kinds if not kind.startswith(("file", "_manifests/tags"))]
    await registry.tag("v2", config, 6)
    assert registry.kinds() == {}


def _of_directory(prefix: str, count: int) -> list[bytes]:
    """Contents whose digests begin with `prefix`."""
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        data = b"%d" % number
        if Digest.of(data).hex.startswith(prefix):
            found.append(data)
        number += 1
    return found
