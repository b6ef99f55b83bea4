"""oras, crane and cosign: artifacts, what refers to them, signatures, catalogues.

PyPI's `oras` is at the end: it needs nothing installed, so that a laptop without the others tests something.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import oras.client  # type: ignore[import-untyped]
import pytest
from tests.clients.layouts import Layout, tar_of
from tests.live import require
from tests.wire import OCI_MANIFEST, image

from moorage.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients.conftest import Run
    from tests.wire import Wire

pytestmark = [pytest.mark.client, pytest.mark.slow]

PLAIN = "--plain-http"
COPY = ("--from-plain-http", "--to-plain-http")


def test_oras_attaches_finds_and_copies_what_refers_to_an_artifact(
    run: Run, reg: str, wire: Wire, tmp_path: Path, *, reference_in_place: bool
) -> None:
    """An SBOM that is not found, or is left behind by a copy, is as good as none."""
    oras = require("oras")
    home = tmp_path / "home"
    (home / "a.txt").write_text("an artifact")
    (home / "s.json").write_text('{"sbom": true}')
    ref = f"{reg}/oras/thing:1"
    run(oras, "push", PLAIN, ref, "--artifact-type", "application/vnd.t+type", "a.txt:text/plain")
    run(
        oras, "attach", PLAIN, ref, "--artifact-type", "application/vnd.sbom+json", "s.json:application/json",
        "--annotation", "who=us",
    )  # fmt: skip
    found = json.loads(run(oras, "discover", PLAIN, "--format", "json", ref))
    assert [entry["artifactType"] for entry in found["manifests"]] == ["application/vnd.sbom+json"]
    none = json.loads(
        run(oras, "discover", PLAIN, "--format", "json", "--artifact-type", "application/other", ref)
    )
    assert not none["manifests"]

    digest = wire.manifest("oras/thing", "1").headers["docker-content-digest"]
    listed = wire.send("GET", f"/v2/oras/thing/referrers/{digest}")
    if not reference_in_place:  # the reference has no referrers: clients keep a list under a tag there
        assert [entry["annotations"]["who"] for entry in listed.json()["manifests"]] == ["us"]
        assert wire.tags("oras/thing") == ["1"], "no fallback tag where the API answers"

    run(oras, "copy", "-r", *COPY, ref, f"{reg}/oras/copied:1")
    copied = json.loads(run(oras, "discover", PLAIN, "--format", "json", f"{reg}/oras/copied:1"))
    assert [entry["digest"] for entry in copied["manifests"]] == [entry["digest"] for entry in found["manifests"]]

    out = tmp_path / "out"
    run(oras, "pull", PLAIN, "-o", out, f"{reg}/oras/copied:1")
    assert (out / "a.txt").read_text() == "an artifact"


def test_oras_finds_referrers_with_large_annotations(
    run: Run, reg: str, wire: Wire, *, reference_in_place: bool
) -> None:
    """It reads 4 MiB of a page and lists nothing at all if there is more."""
    if reference_in_place:
        pytest.skip("no referrers API there")
    oras, name = require("oras"), "oras/large"
    subject = wire.push_image(name, "1", [tar_of({"a": b"large"})])
    descriptor = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(subject)), "size": len(subject)}
    empty = {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": str(wire.push_blob(name, b"{}")),
        "size": 2,
    }
    pushed = []
    for text in ("é" * 950_000, "é" * 950_001, "é" * 950_002, "\U0001f600" * 475_000, "x" * 4_193_000):
        document = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "application/vnd.t", "config": empty,
            "layers": [empty], "subject": descriptor, "annotations": {"text": text},
        }  # fmt: skip
        data = json.dumps(document, ensure_ascii=False).encode()
        answer = wire.put_manifest(name, Digest.of(data), data)
        assert answer.status == 201, answer
        pushed.append(str(Digest.of(data)))
    found = json.loads(run(oras, "discover", PLAIN, "--format", "json", f"{reg}/{name}:1"))
    assert sorted(entry["digest"] for entry in found["manifests"]) == sorted(pushed)


def test_oras_lists_and_deletes(run: Run, reg: str, tmp_path: Path) -> None:
    """Catalogue, tags and manifest deletion, as scripts use them."""
    oras = require("oras")
    (tmp_path / "home" / "f").write_text("f")
    for tag in ("1", "2"):
        run(oras, "push", PLAIN, f"{reg}/oras/listed:{tag}", "--annotation", f"tag={tag}", "f:text/plain")
    assert "oras/listed" in run(oras, "repo", "ls", PLAIN, reg).split()
    assert sorted(run(oras, "repo", "tags", PLAIN, f"{reg}/oras/listed").split()) == ["1", "2"]
    run(oras, "manifest", "delete", "-f", PLAIN, f"{reg}/oras/listed:1")
    assert run(oras, "repo", "tags", PLAIN, f"{reg}/oras/listed").split() == ["2"]
    run(oras, "pull", PLAIN, f"{reg}/oras/listed:1", fails=True)


def test_crane_pushes_an_index_copies_validates_and_deletes(
    run: Run, reg: str, wire: Wire, tmp_path: Path
) -> None:
    """`validate` reads every byte of every layer and compares all digests and sizes."""
    crane = require("crane", optional=True)
    layout = Layout(tmp_path / "layout")
    images = [layout.image([tar_of({"arch": a.encode() * 90_000})], architecture=a) for a in ("amd64", "arm64")]
    index = layout.index(images)
    single = Layout(tmp_path / "single")
    single.tag("v1", single.image([tar_of({"only": b"one" * 100_000})]))
    # crane pushes a layout's own index.json as the index, so the one with two platforms becomes it.
    (layout.path / "index.json").write_bytes(layout.read(index["digest"]))

    run(crane, "--insecure", "push", "--index", layout.path, f"{reg}/crane/multi:1")
    assert run(crane, "--insecure", "digest", f"{reg}/crane/multi:1").strip() == index["digest"]
    run(crane, "--insecure", "validate", "--remote", f"{reg}/crane/multi:1")
    run(crane, "--insecure", "copy", f"{reg}/crane/multi:1", f"{reg}/crane/copied:1")
    assert wire.manifest("crane/copied", "1").body == layout.read(index["digest"])
    run(crane, "--insecure", "push", single.path, f"{reg}/crane/single:1")
    run(crane, "--insecure", "validate", "--remote", f"{reg}/crane/single:1")
    assert {"crane/copied", "crane/multi", "crane/single"} <= set(run(crane, "--insecure", "catalog", reg).split())
    assert run(crane, "--insecure", "ls", f"{reg}/crane/multi").split() == ["1"]
    run(crane, "--insecure", "delete", f"{reg}/crane/copied@{index['digest']}")
    assert wire.manifest("crane/copied", "1").status == 404


def test_cosign_signs_and_verifies_and_refuses_what_nobody_signed(run: Run, reg: str, wire: Wire) -> None:
    """Deployments are gated on this."""
    cosign = require("cosign")
    env = {"COSIGN_PASSWORD": ""}
    signed = str(Digest.of(wire.push_image("cosign/thing", "1", [tar_of({"a": b"signed"})])))
    wire.push_image("cosign/thing", "unsigned", [tar_of({"a": b"not signed"})])
    run(cosign, "generate-key-pair", env=env)
    ref = f"{reg}/cosign/thing@{signed}"
    run(
        cosign, "sign", "-y", "--key", "cosign.key", "--tlog-upload=false", "--allow-http-registry", ref, env=env
    )  # fmt: skip
    verify = ("verify", "--key", "cosign.pub", "--insecure-ignore-tlog", "--allow-http-registry")
    assert signed in run(cosign, *verify, f"{reg}/cosign/thing:1", env=env)
    run(cosign, *verify, f"{reg}/cosign/thing:unsigned", env=env, fails=True)
    assert f"{signed.replace(':', '-')}.sig" in wire.tags("cosign/thing")


def test_cosign_attests_and_shows_the_tree(run: Run, reg: str, wire: Wire, tmp_path: Path) -> None:
    """An attestation is pushed beside the image and read back through it."""
    cosign = require("cosign")
    env = {"COSIGN_PASSWORD": ""}
    digest = str(Digest.of(wire.push_image("cosign/attested", "1", [tar_of({"a": b"attested"})])))
    (tmp_path / "home" / "predicate.json").write_text('{"built": "here"}')
    run(cosign, "generate-key-pair", env=env)
    ref = f"{reg}/cosign/attested@{digest}"
    http = "--allow-http-registry"
    run(
        cosign, "attest", "-y", "--key", "cosign.key", "--tlog-upload=false", http, "--type", "custom",
        "--predicate", "predicate.json", ref, env=env,
    )  # fmt: skip
    verify = ("verify-attestation", "--key", "cosign.pub", "--insecure-ignore-tlog", http, "--type", "custom")
    run(cosign, *verify, ref, env=env)
    assert ".att" in run(cosign, "tree", http, ref, env=env)


def test_the_referrers_of_pypi_oras_are_listed(
    reg: str, wire: Wire, tmp_path: Path, *, reference_in_place: bool
) -> None:
    """The client that any Python program has; needs no program installed."""
    (tmp_path / "file.txt").write_text("from python")
    client = oras.client.OrasClient(hostname=reg, insecure=True)
    client.push(target=f"{reg}/pypi/oras:1", files=[str(tmp_path / "file.txt")], disable_path_validation=True)
    assert client.get_tags(f"{reg}/pypi/oras") == ["1"]
    (pulled,) = client.pull(target=f"{reg}/pypi/oras:1", outdir=str(tmp_path / "out"))
    with open(pulled) as file:  # noqa: PTH123  the client gives a string
        assert file.read() == "from python"

    subject = wire.manifest("pypi/oras", "1")
    described = {
        "mediaType": OCI_MANIFEST,
        "digest": subject.headers["docker-content-digest"],
        "size": len(subject.body),
    }
    wire.push_blob("pypi/oras", b"{}")
    done = wire.put_manifest(
        "pypi/oras", "signature", image(b"{}", [], subject=described, artifactType="application/x")
    )
    assert done.status == 201
    if not reference_in_place:
        assert done.headers["oci-subject"] == described["digest"]
        listed = wire.send("GET", f"/v2/pypi/oras/referrers/{described['digest']}").json()
        assert [entry["artifactType"] for entry in listed["manifests"]] == ["application/x"]
    client.delete_tags(f"{reg}/pypi/oras", ["signature"])
    assert wire.tags("pypi/oras") == ["1"]
