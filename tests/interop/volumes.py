"""A volume worth comparing, filled over HTTP and by skopeo, and what a registry shows of it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.clients.layouts import Layout, tar_of
from tests.live import require
from tests.wire import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live import Live

__all__ = ["Shown", "fill", "show", "take_turns"]


@dataclass
class Shown:
    """Everything a client can see: manifests (digest, media type, bytes) by `NAME:TAG`, blobs by `NAME@DIGEST`."""

    repositories: list[str] = field(default_factory=list)
    manifests: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


def fill(live: Live, scratch: Path, *, empty: bool = True) -> None:
    """Several repositories: an OCI index, Docker schema 2, moved tags, nested names, a mount, an empty layer.

    `empty` False goes without the last.
    """
    wire = Wire(live.host)
    layout = Layout(scratch / "layout")
    images = [layout.image([tar_of({"arch": a.encode() * 999})], architecture=a) for a in ("amd64", "arm64")]
    layout.tag("multi", layout.index(images))
    layout.tag("single", layout.image([tar_of({"big": bytes(range(256)) * 4000})]))
    _skopeo("copy", "--all", f"oci:{layout.path}:multi", f"docker://{live.host}/library/multi:v1")
    _skopeo("copy", "--all", f"oci:{layout.path}:multi", f"docker://{live.host}/library/multi:latest")
    _skopeo("copy", "--format", "v2s2", f"oci:{layout.path}:single", f"docker://{live.host}/library/docker:1.0")
    for number in range(3):
        layers = [b"layer of version %d" % number, *([b""] if empty else [])]
        wire.push_image("team/app", "moved", layers)
        wire.push_image("team/app", f"v{number}", layers)
    wire.push_image("team/app/nested-name_x.y", "1.0-alpine", [b"nested"])
    layer = Digest.of(b"nested")
    mounted = wire.start_upload("team/mounted", mount=str(layer), **{"from": "team/app/nested-name_x.y"})
    assert mounted.status == 201, mounted
    wire.push_blob("team/mounted", b"{}")
    assert wire.put_manifest("team/mounted", "v1", image(b"{}", [b"nested"])).status == 201


def _skopeo(*arguments: str) -> None:
    # Only the destination is a registry; the flag for both sides is refused for an OCI layout.
    command = [require("skopeo"), arguments[0], "--dest-tls-verify=false", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def show(live: Live) -> Shown:
    """Read it all: catalog, tags, manifests by tag and by digest, children of indexes, configs and layers."""
    wire, shown = Wire(live.host), Shown()
    shown.repositories = wire.send("GET", "/v2/_catalog?n=1000").json()["repositories"]
    for name in shown.repositories:
        for tag in wire.tags(name):
            _show_manifest(wire, shown, name, tag)
    return shown


def _show_manifest(wire: Wire, shown: Shown, name: str, reference: str) -> None:
    answer = wire.manifest(name, reference)
    assert answer.status == 200, answer
    media_type, digest = answer.headers["content-type"], answer.headers["docker-content-digest"]
    assert str(Digest.of(answer.body)) == digest
    shown.manifests[f"{name}:{reference}"] = (digest, media_type, answer.body)
    assert wire.manifest(name, digest).body == answer.body
    document: dict[str, Any] = answer.json()
    if media_type in {OCI_INDEX, DOCKER_LIST}:
        for child in document["manifests"]:
            _show_manifest(wire, shown, name, child["digest"])
        return
    if media_type != DOCKER_MANIFEST:
        assert media_type.startswith("application/vnd.oci.image.manifest")
    for described in (document["config"], *document["layers"]):
        blob = wire.blob(name, described["digest"])
        assert blob.status == 200, blob
        algorithm = described["digest"].partition(":")[0]
        assert str(Digest.of(blob.body, algorithm)) == described["digest"]
        shown.blobs[f"{name}@{described['digest']}"] = blob.body


def take_turns(ours: Live, theirs: Live) -> None:
    """Either pushes, the other serves; either moves a tag.  Only we sort tags as the specification wants it."""
    turns = [Wire(live.host) for live in (ours, theirs)]
    for number in range(4):
        manifest = turns[number % 2].push_image("taking/turns", "latest", [b"turn %d" % number])
        assert turns[(number + 1) % 2].manifest("taking/turns", "latest").body == manifest
    for number in range(3):
        turns[0].push_image("taking/turns", f"1.{number}-alpine", [b"x"])
        turns[1].push_image("taking/turns", f"1.{number}", [b"y"])
    expected = sorted(["latest", *(f"1.{n}{s}" for n in range(3) for s in ("", "-alpine"))])
    assert turns[0].tags("taking/turns") == expected
    assert sorted(turns[1].tags("taking/turns")) == expected
