"""A container that 2.8's native swift driver filled, reached by Swift's s3api: `python3 dev.py stores swift`

The driver keeps a path P as the object `PREFIX/files/P`.  What it wrote in one piece (links, manifests) is a plain
object.  What it wrote as a stream (layers) is a dynamic large object: no bytes, and a header with the prefix of
its segments, `CONTAINER/PREFIX/segments/XXX/...`, which are numbered with 16 digits.

docs/decisions/0010-gone-with-2.8.md has what this shows.  Source: registry/storage/driver/swift of 2.8.3.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from tests.interop.volumes import show
from tests.live import start_moorage, start_reference
from tests.s3 import Bucket, a_bucket
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.volumes import Shown
    from tests.live import Live

pytestmark = [
    pytest.mark.reference,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("MOORAGE_S3_STORE") != "swift", reason="needs Swift's own API: python3 dev.py stores swift"
    ),
]

SEGMENT_BYTES = 1 << 20
LARGE = b"a layer of several segments" * 100_003


class Swift:
    """Swift's own API, for one container."""

    def __init__(self, container: str) -> None:
        self._account, self.container = os.environ["MOORAGE_S3_NATIVE"], container

    def put(self, name: str, data: bytes, **headers: str) -> None:
        request = urllib.request.Request(
            f"{self._account}/{self.container}/{quote(name)}",
            data=data,
            method="PUT",
            headers={"Content-Type": "application/octet-stream", **headers},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 201

    def put_stream(self, prefix: str, name: str, data: bytes) -> None:
        """As the driver's writer does: segments, then the object that names them."""
        place = secrets.token_hex(20)
        segments = f"{prefix}segments/{place[:3]}/{place[3:]}"
        for number, start in enumerate(range(0, len(data), SEGMENT_BYTES), 1):
            self.put(f"{segments}/{number:016d}", data[start : start + SEGMENT_BYTES])
        self.put(f"{prefix}files/{name}", b"", **{"X-Object-Manifest": f"{self.container}/{segments}"})


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Shown]:
    """What docker-registry 2.8 stored, and what a client saw."""
    root = tmp_path_factory.mktemp("volume") / "data"
    with start_reference(root) as live:
        wire = Wire(live.host)
        wire.push_image("team/app", "v1", [LARGE, b"small"])
        wire.push_image("team/app", "v2", [b"small"])
        wire.push_image("library/base", "latest", [LARGE])
        return root, show(live)


@pytest.fixture(params=["", "registry/"], ids=["no prefix", "prefix"])
def held(request: pytest.FixtureRequest, volume: tuple[Path, Shown]) -> Iterator[tuple[Bucket, str]]:
    """The container, filled as the native driver fills it, and the `rootdirectory` for `storage.s3`."""
    prefix: str = request.param
    root, _ = volume
    with a_bucket() as bucket:
        swift = Swift(bucket.name)
        manifests = {
            path.parent.name for path in root.glob("docker/registry/v2/repositories/**/revisions/sha256/*/link")
        }
        for path in sorted(root.rglob("*")):
            if not path.is_file():
                continue
            name, data = str(path.relative_to(root)), path.read_bytes()
            streamed = name.endswith("/data") and path.parent.name not in manifests and data
            if streamed:
                swift.put_stream(prefix, name, data)
            else:
                swift.put(f"{prefix}files/{name}", data)
        yield bucket, f"{prefix}files"


def serve(path: Path, held: tuple[Bucket, str], **storage: Any) -> Live:
    bucket, root = held
    section = {"filesystem": None, "s3": bucket.settings(rootdirectory=root), **storage}
    return start_moorage(path / "moorage", storage=section, http={"workers": 1})


def moorage(*arguments: str | Path) -> tuple[int, str]:
    command = [str(Path(sys.executable).with_name("moorage")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_every_image_is_served_and_new_ones_are_pushed(
    tmp_path: Path, volume: tuple[Path, Shown], held: tuple[Bucket, str]
) -> None:
    with serve(tmp_path, held, redirect={"disable": True}) as live:
        shown = show(live)
        assert (shown.manifests, shown.blobs) == (volume[1].manifests, volume[1].blobs)
        wire = Wire(live.host)
        digest = Digest.of(LARGE)
        part = wire.send("GET", f"/v2/team/app/blobs/{digest}", None, {"Range": "bytes=1048570-1048585"})
        assert (part.status, part.body) == (206, LARGE[1048570:1048586])
        pushed = wire.push_image("team/app", "v1", [LARGE, b"new"])
        assert wire.manifest("team/app", "v1").body == pushed
        mounted = wire.start_upload("team/other", mount=str(digest), **{"from": "team/app"})
        assert mounted.status == 201


def test_clients_are_redirected_to_whole_layers(tmp_path: Path, held: tuple[Bucket, str]) -> None:
    with serve(tmp_path, held) as live:
        answer = Wire(live.host).blob("team/app", Digest.of(LARGE))
        assert answer.status == 307
        with urllib.request.urlopen(answer.headers["location"], timeout=60) as found:
            assert found.read() == LARGE


def test_a_copy_makes_plain_objects_of_it(
    tmp_path: Path, volume: tuple[Path, Shown], held: tuple[Bucket, str]
) -> None:
    """After which the container, segments and all, may be deleted."""
    bucket, root = held
    for name, storage in (
        ("old", {"s3": bucket.settings(rootdirectory=root)}),
        ("new", {"s3": bucket.settings(rootdirectory="new")}),
    ):
        document = {"version": 0.1, "storage": storage, "http": {"addr": "127.0.0.1:0"}}
        (tmp_path / f"{name}.yml").write_text(json.dumps(document))
    status, output = moorage(
        "storage", "copy", "--quiet", "--from", tmp_path / "old.yml", "--to", tmp_path / "new.yml"
    )
    assert status == 0, output
    sizes = {key: size for key, size in bucket.keys().items() if key.startswith("new/")}
    digest = Digest.of(LARGE)
    assert sizes[f"new/docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"] == len(LARGE)
    status, output = moorage("storage", "check", "--quiet", "--digests", tmp_path / "new.yml")
    assert status == 0, output
    with serve(tmp_path, (bucket, "new"), redirect={"disable": True}) as live:
        shown = show(live)
        assert (shown.manifests, shown.blobs) == (volume[1].manifests, volume[1].blobs)


def test_the_old_container_is_found_whole(tmp_path: Path, held: tuple[Bucket, str]) -> None:
    """Its listings tell 0 bytes for each layer; both checks ask again before they report."""
    bucket, root = held
    document = {
        "version": 0.1,
        "storage": {"s3": bucket.settings(rootdirectory=root)},
        "http": {"addr": "127.0.0.1:0", "secret": secrets.token_hex(32)},
    }
    (tmp_path / "old.yml").write_text(json.dumps(document))
    status, output = moorage("storage", "check", "--quiet", "--digests", tmp_path / "old.yml")
    assert status == 0, output
    status, output = moorage("migrate", "check", "--quiet", "--user", str(os.geteuid()), tmp_path / "old.yml")
    assert status == 0, output
    assert "have no bytes" not in output
