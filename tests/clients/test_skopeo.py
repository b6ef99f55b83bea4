"""skopeo, whose library is also podman's, buildah's and CRI-O's: copy, inspect, list, delete, sync."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.clients.layouts import Layout, tar_of
from tests.live import require

from moorage.registry.layout import blob_data
from moorage.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.live import Live
    from tests.wire import Wire

pytestmark = [pytest.mark.client, pytest.mark.slow]

PLAIN = ("--src-tls-verify=false", "--dest-tls-verify=false")


@pytest.fixture
def skopeo() -> str:
    return require("skopeo")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """`v1`: an index of two platforms; `one`: a single image with two layers."""
    layout = Layout(tmp_path / "layout")
    images = [layout.image([tar_of({"arch": a.encode()})], architecture=a) for a in ("amd64", "arm64")]
    layout.tag("v1", layout.index(images))
    layout.tag("one", layout.image([tar_of({"a": b"a" * 5000}), tar_of({"b": b"b" * 500_000})]))
    return layout


def tagged(layout: Layout, name: str) -> str:
    """The digest that a tag of the layout names."""
    for entry in json.loads((layout.path / "index.json").read_bytes())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == name:
            return str(entry["digest"])
    raise KeyError(name)


def test_an_index_goes_there_and_back_byte_for_byte(
    skopeo: str, layout: Layout, reg: str, run: Run, tmp_path: Path
) -> None:
    """A multi-platform image that came back with another digest would break every pin and signature."""
    run(skopeo, "copy", "--all", *PLAIN, f"oci:{layout.path}:v1", f"docker://{reg}/sk/multi:v1")
    raw = run(skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{reg}/sk/multi:v1")
    assert str(Digest.of(raw.encode())) == tagged(layout, "v1")

    run(skopeo, "copy", "--all", *PLAIN, f"docker://{reg}/sk/multi:v1", f"oci:{tmp_path / 'back'}:v1")
    sent = {path.name: path.read_bytes() for path in (layout.path / "blobs" / "sha256").iterdir()}
    back = {path.name: path.read_bytes() for path in (tmp_path / "back" / "blobs" / "sha256").iterdir()}
    assert back.items() <= sent.items()
    assert len(back) == 7  # an index, and two manifests, configs and layers


@pytest.mark.parametrize("left", [0, 100])
def test_a_push_repairs_torn_layers(
    skopeo: str, layout: Layout, reg: str, run: Run, registry: Live, wire: Wire, tmp_path: Path, left: int
) -> None:
    """A crash of another registry emptied or truncated the blobs; an empty one is pushed again at once, a cut one
    by the push after the one that found it, although skopeo first tries to mount it from elsewhere.
    """
    target = f"docker://{reg}/sk/torn{left}:v1"
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", target)
    manifest = json.loads(wire.manifest(f"sk/torn{left}", "v1").body)
    blobs = [Digest.parse(entry["digest"]) for entry in manifest["layers"]]
    for digest in blobs:
        path = registry.root / blob_data(digest)
        path.write_bytes(path.read_bytes()[:left])
    run(skopeo, "copy", *PLAIN, target, f"oci:{tmp_path / 'torn'}:v1", fails=True)
    if left:
        run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", target, fails=True)
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", target)
    run(skopeo, "copy", *PLAIN, target, f"oci:{tmp_path / 'back'}:v1")
    for digest in blobs:
        assert wire.blob(f"sk/torn{left}", digest).body == (layout.path / "blobs/sha256" / digest.hex).read_bytes()


def test_one_platform_of_an_index_can_be_looked_at(skopeo: str, layout: Layout, reg: str, run: Run) -> None:
    """`inspect` follows the index to the platform asked for, as every pull does."""
    run(skopeo, "copy", "--all", *PLAIN, f"oci:{layout.path}:v1", f"docker://{reg}/sk/look:v1")
    config = run(
        skopeo,
        "--override-arch",
        "arm64",
        "inspect",
        "--config",
        "--tls-verify=false",
        f"docker://{reg}/sk/look:v1",
    )
    assert json.loads(config)["architecture"] == "arm64"


def test_tags_are_listed_in_byte_order(skopeo: str, layout: Layout, reg: str, run: Run) -> None:
    """`list-tags` follows paging links; a lost or doubled tag breaks mirroring scripts."""
    for tag in ("b", "a", "A", "1.0", "1.0-alpine"):
        run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", f"docker://{reg}/sk/tags:{tag}")
    listed = json.loads(run(skopeo, "list-tags", "--tls-verify=false", f"docker://{reg}/sk/tags"))
    assert sorted(listed["Tags"]) == ["1.0", "1.0-alpine", "A", "a", "b"]


def test_a_copy_between_repositories_mounts_the_layers(
    skopeo: str, layout: Layout, reg: str, run: Run, registry: Live, wire: Wire
) -> None:
    """Copying within one registry moves no layer: promoting an image to another repository is cheap."""
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", f"docker://{reg}/sk/from:v1")
    log = run(skopeo, "--debug", "copy", *PLAIN, f"docker://{reg}/sk/from:v1", f"docker://{reg}/sk/to:v1")
    assert log.count('msg="PATCH') == 1, "the config alone: skopeo always uploads it"
    assert wire.manifest("sk/to", "v1").body == wire.manifest("sk/from", "v1").body


def test_a_deleted_image_is_gone_with_all_its_tags(
    skopeo: str, layout: Layout, reg: str, run: Run, wire: Wire
) -> None:
    """Skopeo deletes by digest; a tag that stayed would point at nothing."""
    for tag in ("v1", "v2"):
        run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", f"docker://{reg}/sk/gone:{tag}")
    run(skopeo, "delete", "--tls-verify=false", f"docker://{reg}/sk/gone:v1")
    run(skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{reg}/sk/gone:v2", fails=True)
    assert wire.tags("sk/gone") == []


def test_a_repository_is_synced_to_a_folder_and_to_another(
    skopeo: str, layout: Layout, reg: str, run: Run, wire: Wire, tmp_path: Path
) -> None:
    """`skopeo sync` is how air-gapped sites are fed."""
    run(skopeo, "copy", "--all", *PLAIN, f"oci:{layout.path}:v1", f"docker://{reg}/sk/sync:v1")
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:one", f"docker://{reg}/sk/sync:one")
    run(
        skopeo, "sync", "--all", *PLAIN, "--src", "docker", "--dest", "docker", f"{reg}/sk/sync", f"{reg}/mirrored"
    )
    for tag in ("v1", "one"):
        assert wire.manifest("mirrored/sync", tag).body == wire.manifest("sk/sync", tag).body
    run(skopeo, "sync", *PLAIN, "--src", "docker", "--dest", "dir", f"{reg}/sk/sync:one", tmp_path / "synced")
    (synced,) = (tmp_path / "synced").rglob("manifest.json")
    assert str(Digest.of(synced.read_bytes())) == tagged(layout, "one")


@pytest.mark.parametrize("form", ["v2s2", "oci"])
def test_an_image_is_pushed_in_either_format(form: str, skopeo: str, layout: Layout, reg: str, run: Run) -> None:
    """Old engines push Docker's schema 2, newer tools OCI; both stay what they are."""
    run(skopeo, "copy", "--format", form, *PLAIN, f"oci:{layout.path}:one", f"docker://{reg}/sk/{form}:v1")
    manifest = json.loads(run(skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{reg}/sk/{form}:v1"))
    assert ("docker" in manifest.get("mediaType", "")) == (form == "v2s2")
    run(skopeo, "copy", *PLAIN, f"docker://{reg}/sk/{form}:v1", f"docker://{reg}/sk/{form}-again:v1")


def test_layers_that_must_not_be_distributed_need_not_be_pushed(
    skopeo: str, layout: Layout, reg: str, run: Run, wire: Wire
) -> None:
    """Skopeo leaves them out, as they have URLs to fetch them from; the manifest is taken as it is."""
    document = json.loads(layout.read(tagged(layout, "one")))
    document["layers"][0] |= {
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "urls": ["https://layers.invalid/layer"],
    }
    described = layout.tag("foreign", layout.add(json.dumps(document).encode(), document["mediaType"]))
    run(skopeo, "copy", *PLAIN, f"oci:{layout.path}:foreign", f"docker://{reg}/sk/foreign:v1")
    assert wire.manifest("sk/foreign", "v1").headers["docker-content-digest"] == described["digest"]
    statuses = [wire.blob("sk/foreign", layer["digest"], "HEAD").status for layer in document["layers"]]
    assert statuses == [404, 200]
